"""S1, on the evidence of stage manifest.

What it finds: a record without a readable medium or a caption, a duplicate id, a path out of the corpus
folder.
"""

GATE = {
    "id": "S1",
    "title": "Every record has its medium and its caption",
    "stage": "manifest",
    "blocks": "train",
    "requires": "raw_media",
    "checks": [
        {
            "id": "missing_media",
            "metric": "missing_media",
            "rule": "max",
            "message": "records point to media that do not exist",
            "remedy": (
                "{run}/manifest/data/errors.jsonl names them: restore the files or delete their lines from "
                "the source's captions file, then run doit"
            ),
        },
        {
            "id": "unreadable_media",
            "metric": "unreadable_media",
            "rule": "max",
            "message": "media that cannot be decoded",
            "remedy": (
                "{run}/manifest/data/errors.jsonl names them: re-encode the files (wav, flac, png, jpeg) or "
                "delete their lines from the source's captions file, then run doit"
            ),
        },
        # zero bytes, zero samples or zero pixels
        {
            "id": "empty_media",
            "metric": "empty_media",
            "rule": "max",
            "message": "media without content",
            "remedy": (
                "{run}/manifest/data/errors.jsonl names them: restore the files or delete their lines from "
                "the source's captions file, then run doit"
            ),
        },
        {
            "id": "empty_captions",
            "metric": "empty_captions",
            "rule": "max",
            "message": "records with an empty caption",
            "remedy": (
                "{run}/manifest/data/errors.jsonl names them: write captions or delete the lines, then run doit"
            ),
        },
        {
            "id": "duplicate_ids",
            "metric": "duplicate_ids",
            "rule": "max",
            "message": "ids that occur more than once",
            "remedy": ("{run}/manifest/data/errors.jsonl names both places: rename one of the two, then run doit"),
        },
        {
            "id": "paths_outside",
            "metric": "paths_outside_corpus",
            "rule": "max",
            "message": "media paths that leave the corpus folder",
            "remedy": (
                "{run}/manifest/data/errors.jsonl names them: move the files below the folder of their "
                "source (corpus.sources) and name them relative to it"
            ),
        },
        # lines that are no record: not JSON, columns missing, an unknown split
        {
            "id": "bad_lines",
            "metric": "bad_lines",
            "rule": "max",
            "message": "lines of a captions file that are no record",
            "remedy": ("{run}/manifest/data/errors.jsonl names file and line: correct or delete them, then run doit"),
        },
        # records that were left out, for whatever reason, of the source that lost the largest share: the
        # bound that still holds where a profile lets the counts above warn, because a published set has lost
        # clips
        {
            "id": "lost",
            "metric": "lost_share",
            "rule": "max",
            "message": "too large a share of a source was left out",
            "remedy": (
                "{run}/manifest/data/errors.jsonl names them: fetch them again; what cannot be had any more "
                "is allowed in the profile, with the reason: gates: [{gate: S1, check: lost, threshold: .., "
                "reason: ..}]"
            ),
        },
        {
            "id": "lost_by_source",
            "metric": "lost_by_source",
            "each": True,
            "rule": "max",
            "message": "share of each source that was left out",
        },
        # good records of each modality that the profile has a codec for
        {
            "id": "records",
            "metric": "records",
            "slices": ["audio", "image"],
            "rule": "min",
            "message": "no usable record of a modality",
            "remedy": (
                "add records of it to a source, or take its codec out of the profile (codecs.audio: null or "
                "codecs.image: null)"
            ),
        },
        # sources of the profile that no usable record comes from
        {
            "id": "silent_sources",
            "metric": "sources_without_records",
            "rule": "max",
            "message": "a source of the profile gave no usable record",
            "remedy": (
                "check path and limit of that source in corpus.sources; {run}/manifest/data/errors.jsonl "
                "lists what was left out"
            ),
        },
        {
            "id": "by_source",
            "metric": "records_by_source",
            "each": True,
            "rule": "min",
            "message": "records of each source",
        },
        {
            "id": "by_licence",
            "metric": "records_by_licence",
            "each": True,
            "rule": "min",
            "message": "records of each licence",
        },
        # media in which nothing can be what the caption says; up to 1 % of them warn
        {
            "id": "silent_sounds",
            "metric": "silent_sounds",
            "slices": ["audio"],
            "rule": "max",
            "message": "sounds that hold silence under a caption",
            "remedy": (
                "listen to them: {run}/manifest/data/manifest.jsonl has `audio.rms` of each; delete their "
                "lines from the source's captions file, then run doit"
            ),
        },
        {
            "id": "cancelled_sounds",
            "metric": "cancelled_sounds",
            "slices": ["audio"],
            "rule": "max",
            "message": "sounds whose channels cancel when they are averaged: a mono codec hears silence",
            "remedy": (
                "{run}/manifest/data/manifest.jsonl has `audio.rms` and `audio.mixed_rms` of each: invert "
                "one channel or keep one, or delete their lines, then run doit"
            ),
        },
        {
            "id": "one_colour_pictures",
            "metric": "one_colour_pictures",
            "slices": ["image"],
            "rule": "max",
            "message": "pictures of one colour under a caption",
            "remedy": (
                "{run}/manifest/data/manifest.jsonl marks them as `image.one_colour`: fetch them again or "
                "delete their lines, then run doit"
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
