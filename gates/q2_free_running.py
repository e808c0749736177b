"""Q2 (warns): duplicates, loops, codebook usage, legal mass, unconstrained validity, end tokens."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("Q2", __doc__))
