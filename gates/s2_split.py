"""S2: a recording or picture on two sides of the split, by content or by origin."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("S2", __doc__))
