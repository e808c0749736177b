"""Stage ablation: the right prompt against a swapped and an empty one, for gates B3, C2 and L1. Profile keys it reads:
evaluate.bootstrap.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmpt.evaluate import ablation as abl
from mmpt.evaluate import outputs
from mmpt.evaluate.alignment import alignment_metrics
from mmpt.evaluate.checkpoint import EvalContext, Trained, digest
from mmpt.evaluate.prompt_losses import prompt_ablation, scored_outputs
from mmpt.evaluate.read_gap import gaps
from mmpt.evaluate.sets import Record, ablation_sets
from mmpt.shards.shard_set import ShardSet
from mmpt.store.canonical import write_json
from mmpt.store.digests import Manifest
from mmpt.store.evidence import write_evidence
from mmpt.store.stage import StageContext
from mmpt.store.tasks import EMIT_TASKS, MODALITIES
from mmpt.tokens import TokenSpace


def ablation(ctx: StageContext) -> None:
    """B3 at the end of training, C2 against step 0: does the prompt decide what comes out. L1: each position predicts
    its own token, and decoding steps predict as teacher forcing does.
    """
    workshop, trained = EvalContext.of(ctx), Trained.of(ctx.inputs["train"])
    resamples, every = ctx.profile["evaluate.bootstrap"], ablation_sets(ctx.inputs["golden"])
    sets = {task: records for task, records in every.items() if task in EMIT_TASKS}
    with workshop.opened(trained.path(trained.final)) as model:
        _write_alignment(ctx, model, workshop.space, every, trained.path(trained.final))
    first, last = (prompt_ablation(ctx.inputs["generate"], sets, step) for step in (trained.initial, trained.final))
    asked = {one[key] for records in sets.values() for one in records for key in ("id", "swap_id")}
    shown = {
        record["id"]: record
        for modality in MODALITIES
        for record in ShardSet.open(ctx.inputs["shards"], modality, "test").records
        if record["id"] in asked
    }
    metrics = [metric for task in sets for metric in (*gaps(ctx, last[task]), *abl.swap_metrics(sets[task], shown))]
    for task, rows in scored_outputs(ctx.inputs["generate"], trained.final).items():
        if task in EMIT_TASKS:
            metrics += outputs.own_prompt_metrics(rows, resamples, ctx.seed)
            metrics += outputs.read_back_metrics(rows, resamples, ctx.seed)
    subject = {
        "initial": digest(trained.path(trained.initial)),
        "final": digest(trained.path(trained.final)),
        "golden": Manifest.of(ctx.inputs["golden"]).digest,
    }
    controls = [
        {
            "name": f"step {trained.initial} {metric.slice} {metric.name}",
            "value": metric.value,
            "ci_low": metric.ci_low,
            "ci_high": metric.ci_high,
            "n": metric.n,
        }
        for task in sets
        for metric in abl.gap_metrics(first[task], resamples, ctx.seed)
    ]
    write_evidence(ctx.out, "B3", metrics, subject=subject, controls=controls)
    metrics = []
    for task in sets:
        swapped, empty = (
            abl.growth(last[task], first[task], resamples, ctx.seed, against) for against in ("swapped", "empty")
        )
        metrics += [
            swapped.metric("gap_growth_nats", slice=task),
            empty.metric("empty_gap_growth_nats", slice=task),
            swapped.groups_metric(task),
        ]
    write_evidence(ctx.out, "C2", metrics, subject=subject)


def _write_alignment(
    ctx: StageContext, model: Any, space: TokenSpace, sets: dict[str, list[Record]], checkpoint: Path
) -> None:
    """L1: alignment.json and evidence."""
    metrics, losses = alignment_metrics(
        model,
        space,
        sets,
        ctx.inputs["shards"],
        resamples=ctx.profile["evaluate.bootstrap"],
        seed=ctx.seed,
        progress=ctx.bar("alignment"),
    )
    write_json(ctx.out / "alignment.json", losses)
    write_evidence(ctx.out, "L1", metrics, subject={"final": digest(checkpoint)})
