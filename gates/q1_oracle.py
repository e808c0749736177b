"""Q1: attributes read back from the decoded files are not those of the prompts."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("Q1", __doc__))
