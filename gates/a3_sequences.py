"""A3: special tokens, label masks, segments or lengths of examples are wrong, or too many were dropped."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("A3", __doc__))
