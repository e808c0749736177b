"""C1, on the evidence of stage generate.

What it finds: not every golden output decodes, is in range and has its exact length.
"""

GATE = {
    "id": "C1",
    "title": "The golden sets decode, all of them",
    "stage": "generate",
    "blocks": "release",
    "checks": [
        {
            "id": "decode",
            "metric": "decode_success_rate",
            "slices": ["t2a", "t2i"],
            "rule": "min",
            "message": "generated ids that do not decode",
            "remedy": (
                "golden_summary.json in each folder below {run}/generate/data/qual names item and error "
                "(failures): where the codec refuses, run `pytest tests/codecs`; where the grammar does, "
                "`pytest tests/generate`"
            ),
        },
        {
            "id": "range",
            "metric": "ids_out_of_range",
            "slices": ["t2a", "t2i"],
            "rule": "max",
            "message": "generated ids outside their range",
            "remedy": (
                "the decode grammar was not applied: set ops.backend: reference and run doit to see whether "
                "a kernel is at fault, and run `pytest tests/generate`"
            ),
        },
        {
            "id": "length",
            "metric": "length_mismatches",
            "slices": ["t2a", "t2i"],
            "rule": "max",
            "message": "outputs whose length is not exact",
            "remedy": (
                "the decode grammar was not applied: set ops.backend: reference and run doit to see whether "
                "a kernel is at fault, and run `pytest tests/generate`"
            ),
        },
        # golden items of the set that were not generated
        {
            "id": "complete",
            "metric": "golden_items_missing",
            "slices": ["t2a", "t2i"],
            "rule": "max",
            "on_fail": "cannot_decide",
            "message": "golden items that were not generated",
            "remedy": "{run}/logs/generate.log says where it ended: delete {run}/generate and run doit",
        },
        # share of positions of the final checkpoint's greedy outputs at which a plain teacher-forced forward (no cache,
        # its own prompt from the caption) prefers another allowed id by more than rounding; n: outputs
        {
            "id": "greedy",
            "metric": "not_greedy_rate",
            "slices": ["a2t", "i2t", "t2a", "t2i"],
            "rule": "max",
            "message": "greedy outputs are not what the model prefers",
            "remedy": (
                "decoding and forward disagree (cache, positions, adapter, prompts): set ops.backend: reference and "
                "run doit to see whether it is a kernel; run `pytest tests/generate tests/evaluate/test_outputs.py`"
            ),
        },
        # the same of the sampled outputs: share of positions whose id is not the one that the output's own seed draws
        # at temperature 1 (mmpt/evaluate/sampled_outputs.py). One seed for all, another temperature or filter, and the
        # noise of another position give other ids
        {
            "id": "drawn",
            "metric": "not_drawn_rate",
            "slices": ["a2t", "i2t", "t2a", "t2i"],
            "rule": "max",
            "message": "sampled outputs are not what their seeds draw",
            "remedy": (
                "seed, temperature, top_k or top_p of golden sampling differ from what generate says, or decoding and "
                "forward disagree (see greedy): run `pytest tests/ops tests/evaluate/test_sampled_outputs.py`"
            ),
        },
        # |z| of the ranks of the sampled ids in the model's own order (formula, source and null distribution in
        # mmpt/evaluate/sampled_outputs.py): no seed and no noise enters. Below 5 with probability 1 - 7.5e-6; greedy
        # outputs of the smoke model have 9 to 15
        {
            "id": "temperature",
            "metric": "draw_rank_z",
            "slices": ["a2t", "i2t", "t2a", "t2i"],
            "rule": "max",
            "message": "sampled outputs do not follow the model's distribution at temperature 1",
            "remedy": (
                "outputs are greedy, or drawn at another temperature or with another filter than generate says: run "
                "`pytest tests/ops tests/evaluate/test_sampled_outputs.py`"
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
