"""B2, on the evidence of stage train.

What it finds: NaN, exploding gradients or jumping embedding norms in training, and held-out records that were trained
on.
"""

GATE = {
    "id": "B2",
    "title": "Training was stable",
    "stage": "train",
    "blocks": "release",
    "requires": "trained_here",
    "checks": [
        # n: steps tried
        {
            "id": "nonfinite",
            "metric": "nonfinite_steps",
            "rule": "max",
            "message": "NaN or Inf in a loss or gradient",
            "remedy": (
                "lower train.lr.lora, train.lr.embed and train.lr.head by half, or raise "
                "train.warmup_steps; {run}/logs/train.log names the step"
            ),
        },
        # largest gradient norm / running median, after warm-up and ramp; n: the steps judged
        {
            "id": "grad_norm",
            "metric": "grad_norm_over_median",
            "rule": "max",
            "message": "the gradient norm jumped",
            "more": (
                "the run ends with its warm-up and ramp: raise train.steps, or lower train.warmup_steps or mixture.ramp"
            ),
            "remedy": ("lower train.lr.lora or train.clip; {run}/train/data/metrics.jsonl has grad_norm_max by step"),
        },
        # largest growth factor of the modality rows' norm within one log interval, after warm-up and ramp; n:
        # the intervals judged
        {
            "id": "row_norm",
            "metric": "row_norm_jump",
            "rule": "max",
            "message": "the norm of the new rows jumped",
            "more": (
                "the run ends with its warm-up and ramp: raise train.steps, or lower train.warmup_steps or mixture.ramp"
            ),
            "remedy": ("lower train.lr.embed and train.lr.head; {run}/train/data/metrics.jsonl has the norms by step"),
        },
        # steps planned and not done because a monitor stopped the run
        {
            "id": "finished",
            "metric": "steps_missing",
            "rule": "max",
            "message": "the run was stopped before its last step",
            "remedy": (
                "the last line of {run}/logs/train.log says why: lower train.lr.lora, train.lr.embed and "
                "train.lr.head by half, then run doit"
            ),
        },
        {
            "id": "clipped",
            "metric": "clipped_share",
            "rule": "max",
            "message": "more than half of the steps were clipped",
            "remedy": "lower train.lr.lora or raise train.clip",
        },
        # records that a step drew and that split.jsonl does not give to train; n: the records drawn
        {
            "id": "drawn",
            "metric": "drawn_outside_train",
            "rule": "max",
            "message": "training drew records of val or test",
            "remedy": (
                "{run}/train/data/draws.jsonl lists what was drawn, {run}/split/data/split.jsonl the splits; every "
                "number measured on test is void. Delete {run}/train and run doit; if it comes back, run `pytest "
                "tests/train tests/shards`"
            ),
        },
        # of each task's train examples, those that no step drew
        {
            "id": "never_drawn",
            "metric": "examples_never_drawn",
            "slices": ["a2t", "i2t", "t2a", "t2i"],
            "rule": "max",
            "message": "examples that no step drew",
        },
    ],
}

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from mmpt.build.gate_script import main

    raise SystemExit(main(__file__))
