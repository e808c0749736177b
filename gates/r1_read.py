"""R1, on the evidence of stage read_regression.

What it finds: captions do not depend on their medium, by likelihood or in the words that the model writes when it runs
free, or reading lost half of what it had after the warm-up.
"""

GATE = {
    "id": "R1",
    "title": "The model reads",
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
            "compared_with": "gap_after_warmup_nats",
            "message": "reading lost more than half of its gap",
            "remedy": ("raise a2t and i2t in mixture.weights or train.loss.task_weights, or lower train.lr.lora"),
        },
        {
            "id": "groups",
            "metric": "independent_groups",
            "slices": ["a2t", "i2t"],
            "rule": "min",
            "on_fail": "cannot_decide",
            "voids": ["gap"],
            "message": "too few independent groups for an interval",
            "remedy": ("raise split.test or add test items that are not variants of one another (field `origin`)"),
        },
        # share of items whose caption is likelier after its own medium than after another
        {
            "id": "win",
            "metric": "win_rate_swapped",
            "slices": ["a2t", "i2t"],
            "rule": "min",
            "message": "too few captions are likelier after their own medium than after another",
            "remedy": (
                "raise train.steps, or a2t and i2t in mixture.weights or train.loss.task_weights; check that captions "
                "describe their own media"
            ),
        },
        {
            "id": "mean",
            "metric": "gap_swapped_nats",
            "slices": ["a2t", "i2t"],
            "rule": "min",
            "message": "the medium changes the caption loss by less than 0.10 nats per token",
            "remedy": (
                "raise train.steps, or a2t and i2t in mixture.weights or train.loss.task_weights; check that captions "
                "describe their own media"
            ),
        },
        # free-running greedy captions, by the independent scorer: likelihood after their own medium against another's
        {
            "id": "output_win",
            "metric": "output_win_rate",
            "slices": ["a2t", "i2t"],
            "rule": "min",
            "message": "too few generated captions are likelier after their own medium than after another",
            "remedy": (
                "captions were made for other media (see C1.greedy), or media hardly matter: raise train.steps, or "
                "a2t and i2t in train.loss.task_weights"
            ),
        },
        # token F1 of greedy captions against their own medium's caption: more than captions made for other media have,
        # and more than the one caption that suits the training set best
        {
            "id": "over_swapped",
            "metric": "caption_gain_over_swapped",
            "slices": ["a2t", "i2t"],
            "rule": "ci_low_above",
            "message": "generated captions say no more of their own medium than captions of other media",
            "remedy": (
                "read them in {run}/report/index.html; raise train.steps, or a2t and i2t in mixture.weights or "
                "train.loss.task_weights"
            ),
        },
        {
            "id": "over_blind",
            "metric": "caption_gain_over_blind",
            "slices": ["a2t", "i2t"],
            "rule": "ci_low_above",
            "message": "one caption for all media is as good as the generated ones",
            "remedy": (
                "read them in {run}/report/index.html; raise train.steps, or a2t and i2t in mixture.weights or "
                "train.loss.task_weights"
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
