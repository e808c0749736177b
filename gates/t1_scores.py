"""T1 (warns): caption metrics, CLIP and CLAP where available, memorisation, train-test gap."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("T1", __doc__))
