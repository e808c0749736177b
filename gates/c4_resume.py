"""C4: a resumed run differs from an uninterrupted one, or a checkpoint that does not fit is loaded."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("C4", __doc__))
