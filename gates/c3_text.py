"""C3: the model got worse at plain text."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("C3", __doc__))
