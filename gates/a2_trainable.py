"""A2, on the evidence of stage preflight.

What it finds: a row or a LoRA matrix that should train does not, or a frozen tensor changes.
"""

GATE = {
    "id": "A2",
    "title": "What should train trains, and nothing else",
    "stage": "preflight",
    "blocks": "train",
    "checks": [
        # image, audio and used special rows (embedding and head) that no optimizer group holds
        {
            "id": "rows_in_optimizer",
            "metric": "rows_not_in_optimizer",
            "rule": "max",
            "message": "new rows that no optimizer group holds",
            "remedy": "set train.lr.embed and train.lr.head above 0; if they are, run `pytest tests/model`",
        },
        # target modules without their pair of LoRA matrices in an optimizer group
        {
            "id": "lora_present",
            "metric": "lora_matrices_missing",
            "rule": "max",
            "message": "target modules without LoRA",
            "remedy": ("name linear layers of the base model in lora.target_modules and set train.lr.lora above 0"),
        },
        # after two steps in which every id occurred
        {
            "id": "rows_changed",
            "metric": "trained_rows_unchanged",
            "rule": "max",
            "message": "trained rows did not move in two steps",
            "remedy": (
                "set train.lr.embed and train.lr.head above 0; with runtime.dtype: bfloat16 a rate may also "
                "be too small to show; otherwise run `pytest tests/model`"
            ),
        },
        {
            "id": "lora_changed",
            "metric": "lora_matrices_unchanged",
            "rule": "max",
            "message": "LoRA matrices did not move in two steps",
            "remedy": "set train.lr.lora and lora.r above 0; otherwise run `pytest tests/model`",
        },
        {
            "id": "frozen_same",
            "metric": "frozen_tensors_changed",
            "rule": "max",
            "message": "frozen tensors changed",
            "remedy": (
                "a base weight is in an optimizer group or shares memory with a trained one: run `pytest "
                "tests/model tests/evaluate -k trainable`"
            ),
        },
        # slices: embed_rows, head_rows, lora, layer_norm, frozen
        {
            "id": "counts",
            "metric": "parameters",
            "slices": ["embed_rows", "head_rows", "lora", "layer_norm", "frozen"],
            "each": True,
            "rule": "min",
            "message": "parameters by group",
        },
    ],
}

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from mmpt.build.gate_script import main

    raise SystemExit(main(__file__))
