"""Stage golden: fixed test items, and their prompts swapped. Profile keys it reads: golden."""

from __future__ import annotations

from collections import Counter

import numpy as np

from mmpt.shards.example_set import ExampleSet
from mmpt.shards.golden import (
    ablation_row,
    condition_ids,
    distinct_media,
    golden_items,
    golden_row,
    origin_stratum,
    swaps,
)
from mmpt.shards.golden_files import golden_file
from mmpt.store.canonical import write_json
from mmpt.store.jsonl import write_jsonl
from mmpt.store.stage import StageContext
from mmpt.store.tasks import TASKS
from mmpt.tokens.space import load


def golden(ctx: StageContext) -> None:
    """Fixes the test items: golden_{task}_{n}.jsonl, ablation_{task}.jsonl, and golden.json, the counts."""
    space = load(ctx.inputs["token_space"])
    counts = {}
    for done, task in enumerate(TASKS):
        ctx.progress(done, len(TASKS), task)
        test = ExampleSet.open(ctx.inputs["examples"], ctx.inputs["shards"], space, task, "test")
        items = golden_items(test, ctx.profile["golden.per_task"], ctx.seed)
        swapped = swaps(test, ctx.profile["golden.ablation"], ctx.seed)
        rows = [golden_row(test, index, bucket) for index, bucket in items]
        write_jsonl(ctx.out / golden_file(task, len(rows)), rows)
        write_jsonl(ctx.out / f"ablation_{task}.jsonl", [ablation_row(test, swap) for swap in swapped])
        differences = [
            abs(len(condition_ids(test, one.index)) - len(condition_ids(test, one.donor))) for one in swapped
        ]
        counts[task] = {
            "available": len(test),
            "distinct_media": distinct_media(test.records),
            "golden": len(rows),
            "ablation": len(swapped),
            "swap_kinds": dict(Counter(one.kind for one in swapped)),
            "strata": dict(Counter(f"{row['length_bucket']} {origin_stratum(row, task)}" for row in rows)),
            "mean_length_difference": float(np.mean(differences)) if differences else None,
        }
        ctx.log(f"{task}: {len(rows)} golden, {len(swapped)} ablation items of {len(test)} test examples")
    write_json(ctx.out / "golden.json", counts)
