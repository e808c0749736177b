"""Losses of the read tasks with their own medium, a swapped one and none, for gates W1 and R1."""

from __future__ import annotations

from mmpt.evaluate import ablation as abl
from mmpt.evaluate.ablating import Ablating
from mmpt.evaluate.checkpoint import Trained
from mmpt.store.canonical import write_json
from mmpt.store.evidence import Metric
from mmpt.store.stage import StageContext
from mmpt.store.tasks import READ_TASKS


def _reading(ctx: StageContext) -> Ablating:
    """The read tasks after the warm-up, and after stage 4 where that is an input."""
    checkpoints = {"warmup": ctx.inputs["warmup"] / "checkpoint"}
    if "train" in ctx.inputs:
        trained = Trained.of(ctx.inputs["train"])
        checkpoints[f"step_{trained.final}"] = trained.path(trained.final)
    return Ablating(ctx, READ_TASKS, checkpoints)


def read_ablations(ctx: StageContext) -> dict[str, list[abl.Ablation]]:
    ctx.spread(read_part)
    reading_pieces = _reading(ctx)
    reading_pieces.write(reading_pieces.pieces)
    return {name: list(reading_pieces.of(name).values()) for name in reading_pieces.checkpoints}


def read_part(ctx: StageContext, rank: int, world: int) -> None:
    """Worker ``rank`` of ``world`` measures its share of the read tasks."""
    work = _reading(ctx)
    work.write(work.mine(rank, world))


def gaps(ctx: StageContext, one: abl.Ablation) -> list[Metric]:
    resamples = ctx.profile["evaluate.bootstrap"]
    groups = abl.gap_interval(one, one.swapped, resamples, ctx.seed).groups_metric(one.task)
    return [*abl.gap_metrics(one, resamples, ctx.seed), groups]


def write_read_gap(ctx: StageContext, name: str, measured: dict[str, list[abl.Ablation]]) -> None:
    resamples = ctx.profile["evaluate.bootstrap"]
    write_json(
        ctx.out / name,
        {
            checkpoint: {one.task: abl.report(one, resamples, ctx.seed) for one in found}
            for checkpoint, found in measured.items()
        },
    )
