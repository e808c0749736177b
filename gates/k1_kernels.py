"""K1: an op's loss, gradient or sample support is off its float64 reference, on CPU or on CUDA."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("K1", __doc__))
