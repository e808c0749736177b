"""Stage trend: small golden sets at every saved step. Profile keys it reads: generate, evaluate.trend."""

from __future__ import annotations

from mmpt.evaluate import trend as tre
from mmpt.evaluate.checkpoint import Trained
from mmpt.store.jsonl import write_jsonl
from mmpt.store.stage import StageContext


def trend(ctx: StageContext) -> None:
    """Small golden sets of every saved step: taken from the cache, or computed."""
    watch, trained = tre.TrendEvaluator.of(ctx), Trained.of(ctx.inputs["train"])
    rows = []
    for done, step in enumerate(trained.saved):
        ctx.progress(done, len(trained.saved), f"step {step}")
        rows.append(tre.collect(tre.evaluated(watch, step, trained.path(step)), ctx.out))
    write_jsonl(ctx.out / "trend.jsonl", rows)
