"""W1, on the evidence of stage warmup_check.

What it finds: after warm-up the read tasks do not depend on their context; held-out records that it trained on.
"""

GATE = {
    "id": "W1",
    "title": "Warm-up made the model read its context",
    "stage": "warmup_check",
    "blocks": "train",
    "checks": [
        # mean loss with another item's medium less the loss with the right one, over the caption tokens
        {
            "id": "gap",
            "metric": "gap_swapped_nats",
            "slices": ["a2t", "i2t"],
            "rule": "min",
            "message": "captions are hardly better with their own medium than with another's",
            "remedy": (
                "raise warmup.steps (first) or warmup.lr, then run doit; "
                "{run}/warmup_check/data/read_gap.json has the losses. If the gap stays, the codes lose "
                "what captions describe: see S3 and codecs.audio or codecs.image"
            ),
        },
        # share of items where the right medium gives the lower loss
        {
            "id": "win_rate",
            "metric": "win_rate_swapped",
            "slices": ["a2t", "i2t"],
            "rule": "min",
            "message": "too few captions prefer their own medium",
            "remedy": (
                "raise warmup.steps (first) or warmup.lr, then run doit; "
                "{run}/warmup_check/data/read_gap.json has the losses. If the gap stays, the codes lose "
                "what captions describe: see S3 and codecs.audio or codecs.image"
            ),
        },
        # records that the warm-up drew and that split.jsonl does not give to train; n: the records drawn
        {
            "id": "drawn",
            "metric": "drawn_outside_train",
            "rule": "max",
            "requires": "warmed_up_here",
            "message": "the warm-up drew records of val or test",
            "remedy": (
                "{run}/warmup/data/draws.jsonl lists what was drawn, {run}/split/data/split.jsonl the splits: delete "
                "{run}/warmup and run doit; if it comes back, run `pytest tests/train tests/shards`"
            ),
        },
    ],
}

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from mmpt.build.gate_script import main

    raise SystemExit(main(__file__))
