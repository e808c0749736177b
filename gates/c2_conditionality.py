"""C2, on the evidence of stage ablation.

What it finds: prompts matter no more after training than before.
"""

GATE = {
    "id": "C2",
    "title": "Conditionality grew in training",
    "stage": "ablation",
    "blocks": "release",
    "checks": [
        # (swapped gap at the end) - (swapped gap at step 0), paired by item, group bootstrap
        {
            "id": "growth",
            "metric": "gap_growth_nats",
            "slices": ["t2a", "t2i"],
            "rule": "ci_low_above",
            "message": "prompts matter no more than before training",
            "remedy": (
                "check that captions describe their own media; then raise train.steps, or t2a and t2i in "
                "mixture.weights"
            ),
        },
        {
            "id": "groups",
            "metric": "independent_groups",
            "slices": ["t2a", "t2i"],
            "rule": "min",
            "on_fail": "cannot_decide",
            "voids": ["growth"],
            "message": "too few independent groups for an interval",
            "remedy": ("raise split.test or add test items that are not variants of one another (field `origin`)"),
        },
    ],
}

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from mmpt.build.gate_script import main

    raise SystemExit(main(__file__))
