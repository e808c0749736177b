"""R1: the read tasks no longer depend on their context after stage 4."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("R1", __doc__))
