"""Q1, on the evidence of stage scores.

What it finds: attributes read back from the decoded files are not those of the prompts; attributes that free-running
captions state are not those of their media.
"""

CAPTIONED = [
    "i2t.shape",
    "i2t.colour",
    "i2t.size",
    "i2t.place",
    "i2t.background",
    "a2t.kind",
    "a2t.pitch",
    "a2t.contour",
    "a2t.count",
    "a2t.loudness",
]
READ_THEM = (
    "read them in {run}/report/index.html; raise train.steps, or a2t and i2t in mixture.weights or "
    "train.loss.task_weights"
)
LOOK_AT_THEM = (
    "look at prompts beside outputs in {run}/report/index.html; raise train.steps, or t2a and "
    "t2i in train.loss.task_weights"
)

GATE = {
    "id": "Q1",
    "title": "Decoded files and captions show what was asked for",
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
            "compared_with": "chance",
            "message": "an attribute is not shown as prompted",
            "remedy": LOOK_AT_THEM,
        },
        # mean over the attributes of a modality
        {
            "id": "mean",
            "metric": "mean_accuracy",
            "slices": ["audio", "image"],
            "rule": "min",
            "message": "prompted attributes are not shown often enough",
            "remedy": LOOK_AT_THEM,
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
        # free-running captions of golden media, read by a parser: of those that state the attribute, the share that
        # is right. An output that is no caption (empty, cut off, other text) counts as wrong. caption_chance: the same
        # outputs as captions of media of other groups, never under a guess. caption_stated: share of all outputs that
        # state it; captions of the corpus name an attribute with probability 0.9
        {
            "id": "captions",
            "metric": "caption_accuracy",
            "slices": CAPTIONED,
            "each": True,
            "rule": "min",
            "compared_with": "caption_chance",
            "message": "captions state an attribute wrongly too often",
            "remedy": READ_THEM,
        },
        {
            "id": "captions_mean",
            "metric": "caption_mean_accuracy",
            "slices": ["a2t", "i2t"],
            "rule": "min",
            "message": "captions state attributes wrongly too often",
            "remedy": READ_THEM,
        },
        {
            "id": "stated",
            "metric": "caption_stated",
            "slices": CAPTIONED,
            "each": True,
            "rule": "min",
            "message": "captions leave an attribute out",
            "remedy": READ_THEM,
        },
        # the same at temperature 1
        {
            "id": "sampled_captions",
            "metric": "sampled_caption_accuracy",
            "slices": CAPTIONED,
            "each": True,
            "rule": "min",
            "compared_with": "sampled_caption_chance",
            "message": "captions at temperature 1 state an attribute wrongly too often",
            "remedy": READ_THEM,
        },
        {
            "id": "sampled_captions_mean",
            "metric": "sampled_caption_mean_accuracy",
            "slices": ["a2t", "i2t"],
            "rule": "min",
            "message": "captions at temperature 1 state attributes wrongly too often",
            "remedy": READ_THEM,
        },
        {
            "id": "sampled_stated",
            "metric": "sampled_caption_stated",
            "slices": CAPTIONED,
            "each": True,
            "rule": "min",
            "message": "captions at temperature 1 leave an attribute out",
            "remedy": READ_THEM,
        },
    ],
}

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from mmpt.build.gate_script import main

    raise SystemExit(main(__file__))
