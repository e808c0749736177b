"""B2: NaN, exploding gradients or jumping embedding norms in training."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("B2", __doc__))
