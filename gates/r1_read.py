"""R1, on the evidence of stage read_regression.

What it finds: the read tasks no longer depend on their context after stage 4.
"""

GATE = {
    "id": "R1",
    "title": "Reading survived stage 4",
    "stage": "read_regression",
    "blocks": "release",
    "checks": [
        {
            "id": "gap",
            "metric": "gap_swapped_nats",
            "slices": ["a2t", "i2t"],
            "rule": "ci_low_above",
            "message": "captions no longer depend on their medium",
            "remedy": "raise a2t and i2t in mixture.weights or train.loss.task_weights",
        },
        # gap_after_warmup_nats: the same measure on the warm-up checkpoint, same items
        {
            "id": "kept",
            "metric": "gap_swapped_nats",
            "slices": ["a2t", "i2t"],
            "rule": "min",
            "reference": "gap_after_warmup_nats",
            "message": "reading lost more than half of its gap",
            "remedy": (
                "raise a2t and i2t in mixture.weights or train.loss.task_weights, or lower train.lr.lora"
            ),
        },
        {
            "id": "groups",
            "metric": "independent_groups",
            "slices": ["a2t", "i2t"],
            "rule": "min",
            "on_fail": "cannot_decide",
            "voids": ["gap"],
            "message": "too few independent groups for an interval",
            "remedy": (
                "raise split.test or add test items that are not variants of one another (field `origin`)"
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
