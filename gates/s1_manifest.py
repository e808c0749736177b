"""S1: a record without a readable medium or a caption, a duplicate id, a path out of the corpus folder."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("S1", __doc__))
