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
                "raise train.steps; keep mixture.prompt_dropout above 0, or the empty prompt is unknown to the model"
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
                "raise train.steps; keep mixture.prompt_dropout above 0, or the empty prompt is unknown to the model"
            ),
        },
        {
            "id": "mean_swapped_t2i",
            "metric": "gap_swapped_nats",
            "slices": ["t2i"],
            "rule": "min",
            "message": "prompts change the picture loss by less than 0.10 nats per token",
            "remedy": ("raise train.steps, or lower codecs.image.codebook_size so that captions can predict the codes"),
        },
        {
            "id": "mean_swapped_t2a",
            "metric": "gap_swapped_nats",
            "slices": ["t2a"],
            "rule": "min",
            "message": "prompts change the sound loss by less than 0.10 nats per token",
            "remedy": (
                "raise train.steps, or lower codecs.audio.n_codebooks: fine codebooks hold what no caption says"
            ),
        },
        {
            "id": "mean_empty_t2i",
            "metric": "gap_empty_nats",
            "slices": ["t2i"],
            "rule": "min",
            "message": "a prompt helps the picture loss by less than 0.10 nats per token",
            "remedy": ("raise train.steps, or lower codecs.image.codebook_size so that captions can predict the codes"),
        },
        {
            "id": "mean_empty_t2a",
            "metric": "gap_empty_nats",
            "slices": ["t2a"],
            "rule": "min",
            "message": "a prompt helps the sound loss by less than 0.10 nats per token",
            "remedy": (
                "raise train.steps, or lower codecs.audio.n_codebooks: fine codebooks hold what no caption says"
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
            "remedy": ("raise split.test or add test items that are not variants of one another (field `origin`)"),
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
                "add test items that say something else (raise split.test), then delete {run}/golden and run doit"
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
        # of generated ids, by the independent scorer: likelihood after their own prompt against another item's
        {
            "id": "output_win",
            "metric": "output_win_rate",
            "slices": ["t2a", "t2i"],
            "rule": "min",
            "message": "too few outputs are likelier after their own prompt than after another",
            "remedy": (
                "{run}/generate/data/qual has scored_outputs.jsonl, output by output: outputs were made for other "
                "prompts (see C1.greedy), or prompts hardly matter: raise train.steps"
            ),
        },
        {
            "id": "output_gap",
            "metric": "output_gap_nats",
            "slices": ["t2a", "t2i"],
            "rule": "ci_low_above",
            "message": "outputs are no likelier after their own prompt than after another",
            "remedy": (
                "{run}/generate/data/qual has scored_outputs.jsonl, output by output: outputs were made for other "
                "prompts (see C1.greedy), or prompts hardly matter: raise train.steps"
            ),
        },
        # the model reads its outputs: loss of a prompt as the caption of its own output against another's. The
        # ground truth, read likewise, is what they are compared with: no output need be distinguished better
        {
            "id": "read_back",
            "metric": "read_back_win_rate",
            "slices": ["t2a.a2t", "t2i.i2t"],
            "rule": "min",
            "compared_with": "truth_read_win_rate",
            "message": "outputs are valid, but do not show their prompts: read back, they fit another's as well",
            "remedy": (
                "hear and see them beside their prompts in {run}/report/index.html; raise train.steps, or t2a and "
                "t2i in train.loss.task_weights"
            ),
        },
        {
            "id": "read_back_gap",
            "metric": "read_back_gap_nats",
            "slices": ["t2a.a2t", "t2i.i2t"],
            "rule": "ci_low_above",
            "message": "read back, outputs fit their own prompts no better than another's",
            "remedy": (
                "hear and see them beside their prompts in {run}/report/index.html; raise train.steps, or t2a and "
                "t2i in train.loss.task_weights"
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
