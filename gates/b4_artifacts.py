"""B4, on the evidence of stage generate.

What it finds: a golden item has no proper wav or png, is silent, constant or clipped, or is not what its ids decode to.
"""

GATE = {
    "id": "B4",
    "title": "Every golden item is a real file",
    "stage": "generate",
    "blocks": "release",
    "checks": [
        # form: all outputs, before and after training, greedy and sampled
        {
            "id": "missing",
            "metric": "missing_files",
            "slices": ["t2a", "t2i"],
            "rule": "max",
            "message": "golden items without their wav or png",
            "remedy": (
                "golden_summary.json in each folder below {run}/generate/data/qual says what failed "
                "(failures); then see C1"
            ),
        },
        {
            "id": "unreadable",
            "metric": "unreadable_files",
            "slices": ["t2a", "t2i"],
            "rule": "max",
            "message": "files that another library cannot read",
            "remedy": ("delete {run}/generate and run doit; if it comes back, run `pytest tests/evaluate -k media`"),
        },
        {
            "id": "form",
            "metric": "wrong_form_files",
            "slices": ["t2a", "t2i"],
            "rule": "max",
            "message": "files of a wrong rate or size",
            "remedy": (
                "the codec decodes to another rate or size than codecs.audio or codecs.image says: run "
                "`pytest tests/codecs`"
            ),
        },
        # content: greedy outputs after training. RMS under 1 % of the ground truth's
        {
            "id": "silent",
            "metric": "silent_files",
            "slices": ["t2a"],
            "rule": "max",
            "message": "silent sounds",
            "remedy": (
                "hear them beside their reconstructions in {run}/report/index.html: raise train.steps; if "
                "reconstructions are as quiet, raise their level in the corpus"
            ),
        },
        # one value throughout
        {
            "id": "constant",
            "metric": "constant_files",
            "slices": ["t2a", "t2i"],
            "rule": "max",
            "message": "constant sounds or pictures",
            "remedy": (
                "see them beside their reconstructions in {run}/report/index.html: raise train.steps or train.lr.lora"
            ),
        },
        # more than 1 % of the samples at full scale, beyond the share of the item's ground truth
        {
            "id": "clipped",
            "metric": "clipped_files",
            "slices": ["t2a"],
            "rule": "max",
            "message": "clipped sounds",
            "remedy": (
                "hear them beside their reconstructions in {run}/report/index.html, which clip less: raise "
                "train.steps, or lower the level of the corpus"
            ),
        },
        # of the first greedy and sampled outputs (16 each): files that differ, by more than the rounding of a 16-bit
        # wav, from what the codec decodes from the recorded ids
        {
            "id": "decoded",
            "metric": "files_unlike_ids",
            "slices": ["t2a", "t2i"],
            "rule": "max",
            "message": "written files are not what the codec decodes from their ids",
            "remedy": (
                "decoding turns or mixes up items, or files were changed: delete {run}/generate and run doit; if it "
                "comes back, run `pytest tests/evaluate/test_generated_files.py`"
            ),
        },
        # the written reconstructions (stored codes of the golden items, decoded as outputs are), read from their files
        # and compared with their media: what they keep of the codec's own advantage over the medium of another group
        {
            "id": "ground_truth",
            "metric": "reconstruction_share",
            "slices": ["t2a", "t2i"],
            "rule": "min",
            "requires": "raw_media",
            "message": "written reconstructions are not as good as the codec",
            "remedy": (
                "compare {run}/generate/data/qual/step_*/reconstruction with the media: decoding or writing "
                "turns them; run `pytest tests/evaluate -k ground_truth`"
            ),
        },
        {
            "id": "ground_truth_win",
            "metric": "reconstruction_win_rate",
            "slices": ["t2a", "t2i"],
            "rule": "min",
            "requires": "raw_media",
            "message": "written reconstructions fit another medium as well as their own",
            "remedy": (
                "compare {run}/generate/data/qual/step_*/reconstruction with the media: items are mixed up, or "
                "the codec cannot tell them apart (see S3.reconstruction)"
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
