"""C1: not every golden output decodes, is in range and has its exact length."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("C1", __doc__))
