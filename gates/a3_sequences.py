"""A3, on the evidence of stage preflight.

What it finds: special tokens, label masks, segments or lengths of examples are wrong, or too many were
dropped.
"""

GATE = {
    "id": "A3",
    "title": "Sequences and labels have the right form",
    "stage": "preflight",
    "blocks": "train",
    "checks": [
        {
            "id": "order",
            "metric": "special_order_errors",
            "slices": ["a2t", "i2t", "t2a", "t2i"],
            "rule": "max",
            "message": "special tokens out of order",
            "remedy": "delete {run}/examples and run doit; if it comes back, run `pytest tests/tokens`",
        },
        {
            "id": "mask",
            "metric": "labels_outside_target",
            "slices": ["a2t", "i2t", "t2a", "t2i"],
            "rule": "max",
            "message": "labels outside the target that are not -100",
            "remedy": "delete {run}/examples and run doit; if it comes back, run `pytest tests/tokens`",
        },
        {
            "id": "no_label",
            "metric": "examples_without_label",
            "slices": ["a2t", "i2t", "t2a", "t2i"],
            "rule": "max",
            "message": "examples without a supervised token",
            "remedy": (
                "look for captions without a word in {run}/manifest/data/manifest.jsonl; otherwise delete "
                "{run}/examples and run doit"
            ),
        },
        {
            "id": "shortened",
            "metric": "shortened_targets",
            "slices": ["a2t", "i2t", "t2a", "t2i"],
            "rule": "max",
            "message": "targets that lost their tail",
            "remedy": (
                "raise examples.max_seq_len (and train.row_len with it) or lower codecs.audio.clip_seconds, "
                "then delete {run}/examples and run doit"
            ),
        },
        {
            "id": "segments",
            "metric": "labels_outside_segment",
            "slices": ["a2t", "i2t", "t2a", "t2i"],
            "rule": "max",
            "message": "labels outside the segment of their position",
            "remedy": ("delete {run}/shards and {run}/examples and run doit, so that both are of one token space"),
        },
        # examples there are / records of the modality (dropped and unencoded ones counted), all splits
        {
            "id": "kept",
            "metric": "kept_share",
            "slices": ["a2t", "i2t", "t2a", "t2i"],
            "rule": "min",
            "message": "a task lost too many of its records",
            "remedy": (
                "`doit records` names them, each with its lengths: for too long raise examples.max_seq_len "
                "(and train.row_len with it) or lower codecs.audio.clip_seconds; `doit fit` proposes values"
            ),
        },
        # slices <task>.<reason>
        {
            "id": "drops",
            "metric": "dropped",
            "each": True,
            "rule": "max",
            "optional": True,
            "message": "dropped records by task and reason",
        },
        # largest difference, over its tolerance by dtype, between the loss of a sequence in the rows that training
        # packs and of the same sequence alone; n: sequences
        {
            "id": "packed",
            "metric": "packed_over_tolerance",
            "rule": "max",
            "message": "a packed sequence costs other than the same sequence alone",
            "remedy": (
                "packed sequences see each other, or their positions do not restart: use a base with attention layers "
                "only, and run `pytest tests/model/test_isolation.py tests/evaluate/test_packed.py`"
            ),
        },
        {
            "id": "packed_whole",
            "metric": "packed_sequences_unmatched",
            "rule": "max",
            "message": "packed rows do not hold the sequences that were drawn",
            "remedy": "run `pytest tests/shards/test_loader.py tests/evaluate/test_packed.py`",
        },
        # share of a modality's worst codebook that no record of the train split holds: those rows are never trained
        {
            "id": "unseen_codes",
            "metric": "codes_never_seen",
            "slices": ["image", "audio"],
            "rule": "max",
            "message": "more than half of a codebook never occurs in training",
            "remedy": "add records, or take a codec with a smaller codebook (codecs.audio, codecs.image)",
        },
        # exp of the entropy of the codes that occur, over the size of the codebook
        {
            "id": "code_use",
            "metric": "code_perplexity",
            "each": True,
            "slices": ["image", "audio"],
            "rule": "min",
            "message": "how evenly the codes of a codebook occur in training",
        },
        {
            "id": "unseen_rows",
            "metric": "rows_never_seen",
            "rule": "max",
            "message": "new rows that no training sequence holds",
        },
    ],
}

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from mmpt.build.gate_script import main

    raise SystemExit(main(__file__))
