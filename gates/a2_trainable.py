"""A2: a row or a LoRA matrix that should train does not, or a frozen tensor changes."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("A2", __doc__))
