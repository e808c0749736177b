"""A4: stored codes do not decode to the rate, channels, length and size that their meta says."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("A4", __doc__))
