"""W1: after warm-up the read tasks do not depend on their context."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("W1", __doc__))
