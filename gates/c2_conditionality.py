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
        # (empty gap at the end) - (empty gap at step 0): the specification asks for both. 0.88 (t2a) and 0.41 (t2i) in
        # the smoke run of 2026-11-30; a model that never saw an empty prompt cannot be asked
        # It warns: before training both losses are arbitrary, and what an empty prompt happens to cost there differs by
        # nats from seed to seed (of two seeds of smoke on 2026-11-30 one interval crossed 0, with B3 at 0.9 and more).
        # What an empty prompt costs after training is B3's to block.
        {
            "id": "growth_empty",
            "metric": "empty_gap_growth_nats",
            "slices": ["t2a", "t2i"],
            "rule": "ci_low_above",
            "message": "an empty prompt costs no more than before training",
            "remedy": (
                "check that captions describe their own media; raise train.steps, and mixture.prompt_dropout where "
                "it is under 0.1"
            ),
        },
        {
            "id": "groups",
            "metric": "independent_groups",
            "slices": ["t2a", "t2i"],
            "rule": "min",
            "on_fail": "cannot_decide",
            "voids": ["growth", "growth_empty"],
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
