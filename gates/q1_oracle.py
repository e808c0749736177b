"""Q1, on the evidence of stage scores.

What it finds: attributes read back from the decoded files are not those of the prompts.
"""

GATE = {
    "id": "Q1",
    "title": "Decoded files show what the prompts say",
    "stage": "scores",
    "blocks": "release",
    "requires": "generated_corpus",
    "checks": [
        # share of golden items whose decoded file shows the attribute the prompt mentions; slice
        # <modality>.<attribute>; metric `chance` with the same slices: the accuracy of guessing
        {
            "id": "attributes",
            "metric": "accuracy",
            "slices": [
                "image.shape",
                "image.colour",
                "image.size",
                "image.place",
                "image.background",
                "audio.kind",
                "audio.pitch",
                "audio.contour",
                "audio.count",
                "audio.loudness",
            ],
            "each": True,
            "rule": "min",
            "reference": "chance",
            "message": "an attribute is not shown as prompted",
            "remedy": (
                "look at prompts beside outputs in {run}/report/index.html; raise train.steps, or t2a and "
                "t2i in train.loss.task_weights"
            ),
        },
        # mean over the attributes of a modality
        {
            "id": "mean",
            "metric": "mean_accuracy",
            "slices": ["audio", "image"],
            "rule": "min",
            "message": "prompted attributes are not shown often enough",
            "remedy": (
                "look at prompts beside outputs in {run}/report/index.html; raise train.steps, or t2a and "
                "t2i in train.loss.task_weights"
            ),
        },
        # the oracle on test media after encode and decode: can it be trusted on decoded files at all
        {
            "id": "oracle",
            "metric": "oracle_roundtrip_accuracy",
            "slices": ["audio", "image"],
            "rule": "min",
            "on_fail": "cannot_decide",
            "voids": ["attributes", "mean"],
            "message": "the oracle misreads codec round trips",
            "remedy": (
                "use a finer codec: raise codecs.image.codebook_size or lower codecs.image.patch; raise "
                "codecs.audio.codebook_size or codecs.audio.n_codebooks"
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
