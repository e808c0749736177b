"""B4: a golden item has no proper wav or png, or it is silent, constant or clipped."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("B4", __doc__))
