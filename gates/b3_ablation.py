"""B3, on the evidence of stage ablation.

What it finds: the loss of sounds and pictures does not depend on the prompt.
"""

GATE = {
    "id": "B3",
    "title": "Outputs depend on their prompts",
    "stage": "ablation",
    "blocks": "release",
    "checks": [
        # teacher-forced NLL of the payload tokens: prompts swapped across groups, or empty; intervals by
        # group bootstrap
        {
            "id": "win_swapped",
            "metric": "win_rate_swapped",
            "slices": ["t2a", "t2i"],
            "rule": "min",
            "message": "too few items prefer their own prompt to another's",
            "remedy": (
                "raise train.steps while the gap in {run}/trend/data/trend.jsonl still grows; if it does "
                "not grow, check that captions describe their own media, and raise t2a and t2i in "
                "train.loss.task_weights"
            ),
        },
        {
            "id": "win_empty",
            "metric": "win_rate_empty",
            "slices": ["t2a", "t2i"],
            "rule": "min",
            "message": "too few items prefer their own prompt to none",
            "remedy": (
                "raise train.steps; keep mixture.prompt_dropout above 0, or the empty prompt is unknown to "
                "the model"
            ),
        },
        {
            "id": "gap_swapped",
            "metric": "gap_swapped_nats",
            "slices": ["t2a", "t2i"],
            "rule": "ci_low_above",
            "message": "the gap to swapped prompts is not above zero",
            "remedy": (
                "raise train.steps while the gap in {run}/trend/data/trend.jsonl still grows; if it does "
                "not grow, check that captions describe their own media, and raise t2a and t2i in "
                "train.loss.task_weights"
            ),
        },
        {
            "id": "gap_empty",
            "metric": "gap_empty_nats",
            "slices": ["t2a", "t2i"],
            "rule": "ci_low_above",
            "message": "the gap to empty prompts is not above zero",
            "remedy": (
                "raise train.steps; keep mixture.prompt_dropout above 0, or the empty prompt is unknown to "
                "the model"
            ),
        },
        {
            "id": "mean_swapped_t2i",
            "metric": "gap_swapped_nats",
            "slices": ["t2i"],
            "rule": "min",
            "message": "prompts change the picture loss by less than 0.10 nats a token",
            "remedy": (
                "raise train.steps, or lower codecs.image.codebook_size so that captions can predict the "
                "codes"
            ),
        },
        {
            "id": "mean_swapped_t2a",
            "metric": "gap_swapped_nats",
            "slices": ["t2a"],
            "rule": "min",
            "message": "prompts change the sound loss by less than 0.10 nats a token",
            "remedy": (
                "raise train.steps, or lower codecs.audio.n_codebooks: fine codebooks hold what no caption "
                "says"
            ),
        },
        {
            "id": "mean_empty_t2i",
            "metric": "gap_empty_nats",
            "slices": ["t2i"],
            "rule": "min",
            "message": "a prompt helps the picture loss by less than 0.10 nats a token",
            "remedy": (
                "raise train.steps, or lower codecs.image.codebook_size so that captions can predict the "
                "codes"
            ),
        },
        {
            "id": "mean_empty_t2a",
            "metric": "gap_empty_nats",
            "slices": ["t2a"],
            "rule": "min",
            "message": "a prompt helps the sound loss by less than 0.10 nats a token",
            "remedy": (
                "raise train.steps, or lower codecs.audio.n_codebooks: fine codebooks hold what no caption "
                "says"
            ),
        },
        # groups of items that share a recording, picture or description: what the bootstrap draws
        {
            "id": "groups",
            "metric": "independent_groups",
            "slices": ["t2a", "t2i"],
            "rule": "min",
            "on_fail": "cannot_decide",
            "voids": ["gap_swapped", "gap_empty"],
            "message": "too few independent groups for an interval",
            "remedy": (
                "raise split.test or add test items that are not variants of one another (field `origin`)"
            ),
        },
        # swapped pairs inside one group, with one prompt, or (where attributes are known) whose swapped
        # prompt is true of the item
        {
            "id": "pairs",
            "metric": "invalid_swaps",
            "slices": ["t2a", "t2i"],
            "rule": "max",
            "on_fail": "cannot_decide",
            "voids": ["win_swapped", "gap_swapped", "mean_swapped_t2i", "mean_swapped_t2a"],
            "message": "prompts were swapped inside a group or between like items",
            "remedy": (
                "add test items that say something else (raise split.test), then delete {run}/golden and "
                "run doit"
            ),
        },
        # mean |len(swapped) - len(own)| / len(own), prompt tokens
        {
            "id": "pair_lengths",
            "metric": "swap_length_difference",
            "slices": ["t2a", "t2i"],
            "rule": "max",
            "message": "swapped prompts differ much in length",
            "remedy": "add test items, so that each finds a partner of its length (raise split.test)",
        },
    ],
}

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from mmpt.build.gate_script import main

    raise SystemExit(main(__file__))
