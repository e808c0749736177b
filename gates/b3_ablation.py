"""B3: the loss of sounds and pictures does not depend on the prompt."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("B3", __doc__))
