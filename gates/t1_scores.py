"""T1, on the evidence of stage scores.

What it finds: caption metrics, CLIP and CLAP where available, memorisation, train-test gap.
"""

GATE = {
    "id": "T1",
    "title": "Scores and memorisation",
    "stage": "scores",
    "blocks": "release",
    "checks": [
        # test loss less train loss
        {
            "id": "train_test_gap",
            "metric": "train_test_gap_nats",
            "slices": ["a2t", "i2t", "t2a", "t2i"],
            "rule": "max",
            "message": "test loss is far above train loss",
            "remedy": "add training records, lower train.steps, or raise lora.dropout",
        },
        # share of outputs equal (by codes) to a training item
        {
            "id": "memorised",
            "metric": "nearest_train_match_rate",
            "slices": ["t2a", "t2i"],
            "rule": "max",
            "message": "outputs are copies of training items",
            "remedy": (
                "{run}/scores/data/scores.json names the nearest training item of each: add training "
                "records, or lower train.steps"
            ),
        },
        # token F1 of the caption read back from the ground truth against its caption
        {
            "id": "caption_f1",
            "metric": "caption_f1",
            "slices": ["a2t", "i2t"],
            "rule": "min",
            "message": "captions read back share few words with the medium's caption",
            "remedy": (
                "read them beside the reconstructions in {run}/report/index.html; raise train.steps, or a2t and "
                "i2t in mixture.weights"
            ),
        },
        {
            "id": "clip",
            "metric": "clip_score",
            "slices": ["t2i"],
            "rule": "min",
            "optional": True,
            "message": "CLIP similarity of prompt and picture",
        },
        {
            "id": "clap",
            "metric": "clap_score",
            "slices": ["t2a"],
            "rule": "min",
            "optional": True,
            "message": "CLAP similarity of prompt and sound",
        },
        # mean cosine of an output with its own prompt less that with the others' prompts
        {
            "id": "clip_gap",
            "metric": "clip_gap_to_swapped",
            "slices": ["t2i"],
            "rule": "ci_low_above",
            "optional": True,
            "message": "by CLIP, pictures fit their own prompt no better than another's",
            "remedy": (
                "compare clip_score_reconstruction in {run}/scores/data/evidence/T1.json with clip_score: if "
                "CLIP tells the reconstructions apart, raise train.steps; if not, this score says nothing of "
                "your corpus"
            ),
        },
        {
            "id": "clap_gap",
            "metric": "clap_gap_to_swapped",
            "slices": ["t2a"],
            "rule": "ci_low_above",
            "optional": True,
            "message": "by CLAP, sounds fit their own prompt no better than another's",
            "remedy": (
                "compare clap_score_reconstruction in {run}/scores/data/evidence/T1.json with clap_score: if "
                "CLAP tells the reconstructions apart, raise train.steps; if not, this score says nothing of "
                "your corpus"
            ),
        },
        # (cosine with the prompt at the end) - (at step 0), paired by item: a trend, as the specification asks
        {
            "id": "clip_growth",
            "metric": "clip_growth_over_step_0",
            "slices": ["t2i"],
            "rule": "ci_low_above",
            "optional": True,
            "message": "by CLIP, pictures fit their prompts no better than before training",
            "remedy": (
                "compare clip_score, clip_score_step_0 and clip_score_reconstruction in "
                "{run}/scores/data/evidence/T1.json: where the ground truth scores no higher than step 0, this "
                "score says nothing about your corpus; else raise train.steps"
            ),
        },
        {
            "id": "clap_growth",
            "metric": "clap_growth_over_step_0",
            "slices": ["t2a"],
            "rule": "ci_low_above",
            "optional": True,
            "message": "by CLAP, sounds fit their prompts no better than before training",
            "remedy": (
                "compare clap_score, clap_score_step_0 and clap_score_reconstruction in "
                "{run}/scores/data/evidence/T1.json: where the ground truth scores no higher than step 0, this "
                "score says nothing about your corpus; else raise train.steps"
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
