"""B1: the emit losses do not beat the unigram or do not fall, or the read losses rise."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("B1", __doc__))
