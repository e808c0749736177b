"""C4, on the evidence of stage resume_check.

What it finds: a resumed run differs from an uninterrupted one, or a checkpoint that does not fit is loaded.
"""

GATE = {
    "id": "C4",
    "title": "A resumed run is the same run",
    "stage": "resume_check",
    "blocks": "release",
    "checks": [
        {
            "id": "parameters",
            "metric": "parameters_differing",
            "rule": "max",
            "message": "trained tensors differ after resume",
            "remedy": (
                "{run}/resume_check/data/resume_check.json names them (differing): run `pytest tests/train "
                "tests/model/test_checkpoints.py`"
            ),
        },
        {
            "id": "optimizer",
            "metric": "optimizer_tensors_differing",
            "rule": "max",
            "message": "optimizer state differs after resume",
            "remedy": (
                "{run}/resume_check/data/resume_check.json names it (differing): run `pytest tests/train "
                "tests/model/test_checkpoints.py`"
            ),
        },
        {
            "id": "rng",
            "metric": "rng_states_differing",
            "rule": "max",
            "message": "random state differs after resume",
            "remedy": (
                "{run}/resume_check/data/resume_check.json names it (differing): run `pytest tests/train "
                "tests/model/test_checkpoints.py`"
            ),
        },
        {
            "id": "batches",
            "metric": "batches_differing",
            "rule": "max",
            "message": "batches differ after resume",
            "remedy": (
                "{run}/resume_check/data/resume_check.json names the steps (differing): run `pytest "
                "tests/shards/test_loader.py`"
            ),
        },
        {
            "id": "losses",
            "metric": "losses_differing",
            "rule": "max",
            "message": "losses differ after resume",
            "remedy": (
                "{run}/resume_check/data/resume_check.json names the steps (differing): where parameters, "
                "batches and random state agree, an operation is not deterministic; set ops.backend: "
                "reference and run doit to see which"
            ),
        },
        {
            "id": "schedule",
            "metric": "schedule_differing",
            "rule": "max",
            "message": "the schedule differs after resume",
            "remedy": (
                "{run}/resume_check/data/resume_check.json names the settings (differing): run `pytest "
                "tests/train/test_loop.py`"
            ),
        },
        # cursors of the mixture, the data's digest, and how often each example was drawn
        {
            "id": "sampler",
            "metric": "sampler_differing",
            "rule": "max",
            "message": "the sampler's state differs after resume",
            "remedy": (
                "{run}/resume_check/data/resume_check.json names it (differing): run `pytest "
                "tests/shards/test_loader.py tests/train/test_loop.py`"
            ),
        },
        {
            "id": "monitors",
            "metric": "monitors_differing",
            "rule": "max",
            "message": "the monitors' state differs after resume",
            "remedy": (
                "{run}/resume_check/data/resume_check.json names it (differing): "
                "run `pytest tests/train/test_monitors.py`"
            ),
        },
        # the open log interval, measurements kept, the reason of a stop
        {
            "id": "intervals",
            "metric": "intervals_differing",
            "rule": "max",
            "message": "the open log interval or a kept measurement differs after resume",
            "remedy": (
                "{run}/resume_check/data/resume_check.json names it (differing): run `pytest tests/train/test_loop.py`"
            ),
        },
        # parts that a run needs to go on and that no checkpoint holds; n: the parts
        {
            "id": "whole",
            "metric": "state_missing",
            "rule": "max",
            "message": "checkpoints lack a part that a resumed run needs",
            "remedy": (
                "{run}/resume_check/data/resume_check.json names it (differing): run `pytest "
                "tests/model/test_checkpoints.py`"
            ),
        },
        # 1 where a checkpoint with that difference was loaded without complaint; n: attempts
        {
            "id": "refusals",
            "metric": "mismatches_not_refused",
            "slices": ["token_space", "row_shape", "lora_config"],
            "rule": "max",
            "message": "a checkpoint that does not fit was not refused",
            "remedy": (
                "run `pytest tests/model/test_checkpoints.py`; until it passes, load no checkpoint of another run"
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
