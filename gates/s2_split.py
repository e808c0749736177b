"""S2, on the evidence of stage split.

What it finds: a recording or picture on two sides of the split, by content or by origin.
"""

GATE = {
    "id": "S2",
    "title": "No recording or picture on two sides of the split",
    "stage": "split",
    "blocks": "train",
    "checks": [
        # distinct media (by content hash) that occur in more than one of train, val, test
        {
            "id": "content",
            "metric": "content_in_two_splits",
            "rule": "max",
            "message": "the same file content in two splits",
            "remedy": (
                "delete {run}/split and run doit: it deals equal content to one side. If it comes back, run "
                "`pytest tests/corpus`"
            ),
        },
        # pairs of media that look or sound the same, by perceptual fingerprint (mmpt/corpus/fingerprints.py), in
        # different splits: another format, quality, size by a few pixels, depth, rate, a level within about 1 dB
        {
            "id": "near_duplicates",
            "metric": "near_duplicates_in_two_splits",
            "rule": "max",
            "requires": "raw_media",
            "message": "media that look or sound the same in two splits",
            "remedy": (
                "delete {run}/split and run doit: it deals near duplicates to one side. If it comes back, run "
                "`pytest tests/corpus`"
            ),
        },
        # distinct origins (recording or picture, across data sets, with all its captions) in more than one
        # split
        {
            "id": "origins",
            "metric": "origins_in_two_splits",
            "rule": "max",
            "message": "one recording or picture in two splits",
            "remedy": (
                "delete {run}/split and run doit: it deals records of one `origin` to one side. If it comes "
                "back, run `pytest tests/corpus`"
            ),
        },
        # records whose source marks them as official test and that are in train or val
        {
            "id": "official_test",
            "metric": "official_test_in_train",
            "rule": "max",
            "requires": "raw_media",
            "message": "records of an official test split are trained on",
            "remedy": (
                "delete {run}/split and run doit: it keeps what a source marks as test (field `split`) out "
                "of train. If it comes back, run `pytest tests/corpus`"
            ),
        },
        # records in no split, and records that the split deals out twice
        {
            "id": "unassigned",
            "metric": "records_without_split",
            "rule": "max",
            "message": "records in no split, or in it twice",
            "remedy": "delete {run}/split and run doit: its output does not cover the manifest",
        },
        {
            "id": "sizes",
            "metric": "records_in_split",
            "slices": ["audio.train", "audio.val", "audio.test", "image.train", "image.val", "image.test"],
            "rule": "min",
            "message": "a modality without records in a split",
            "remedy": "raise split.val or split.test, or add records of that modality",
        },
        # generated corpus: full attribute combinations that occur in more than one split
        {
            "id": "combinations",
            "metric": "combinations_in_two_splits",
            "rule": "max",
            "requires": "generated_corpus",
            "message": "an attribute combination of test is also trained on",
            "remedy": (
                "delete {run}/corpus and {run}/split and run doit: the generator marks each combination "
                "with one split. If it comes back, run `pytest tests/corpus`"
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
