"""C2: prompts matter no more after training than before."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("C2", __doc__))
