"""X1, on the evidence of stage staged_export.

What it finds: an export whose weights, tokenizer or grammar give other ids than the run gave for its golden prompts.
"""

GATE = {
    "id": "X1",
    "title": "The export gives the run's ids",
    "stage": "staged_export",
    "blocks": "release",
    "checks": [
        # golden prompts whose greedy ids differ from the run's, where the exported model prefers its own id by more
        # than rounding; slices: the runtimes of export.runtimes
        {
            "id": "ids",
            "metric": "ids_differing",
            "slices": ["transformers"],
            "each": True,
            "rule": "max",
            "message": "the exported model gives other ids than the run",
            "remedy": (
                "{run}/staged_export/data/export.json names prompts, positions and ids (runtimes): a merged weight, "
                "the tokenizer or the grammar differs; run `pytest tests/model/test_export.py`"
            ),
        },
        # golden captions and prompts of which the exported tokenizer makes other ids than the run recorded (called with
        # special tokens, it may add those that the base's own tokenizer adds, and no others), and texts in which a
        # control token's name becomes its id
        {
            "id": "texts",
            "metric": "texts_differing",
            "rule": "max",
            "message": "the exported tokenizer makes other ids of texts than the run",
            "remedy": (
                "tokenizer.json or tokenizer_config.json of {run}/staged_export/data/export differs from "
                "{run}/token_space/data/tokenizer by more than our tokens' names: run "
                "`pytest tests/model/test_export.py`"
            ),
        },
        # prompts whose ids differ, but where the exported model prefers neither by more than rounding
        {
            "id": "ties",
            "metric": "rounding_ties",
            "slices": ["transformers"],
            "each": True,
            "rule": "max",
            "message": "ids that differ by rounding alone",
        },
    ],
}

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from mmpt.build.gate_script import main

    raise SystemExit(main(__file__))
