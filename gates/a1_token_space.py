"""A1: shards, checkpoint and run do not share one token space."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("A1", __doc__))
