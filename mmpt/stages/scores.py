"""Stage scores: attributes read back from files, free-running quality, for gates Q1, Q2 and T1. Profile keys it reads:
generate, evaluate.bootstrap, evaluate.scores.
"""

from __future__ import annotations

from typing import Any

from mmpt.evaluate import published_scores as pub
from mmpt.evaluate import scores as sco
from mmpt.evaluate.checkpoint import EvalContext, Trained, digest
from mmpt.store.canonical import write_json
from mmpt.store.digests import Manifest
from mmpt.store.evidence import write_evidence
from mmpt.store.stage import StageContext


def scores(ctx: StageContext) -> None:
    """Q1, Q2, T1 on the golden outputs as they lie on disk."""
    workshop, trained = EvalContext.of(ctx), Trained.of(ctx.inputs["train"])
    look = sco.Look.of(ctx, workshop, trained)
    parts = ctx.bar("parts: attributes of outputs, captions, free running, nearest items, judges")
    parts(0, 5)
    metrics, controls, attributes = sco.oracle_metrics(look)
    parts(1, 5)
    captions, step_zero, read, wrong = sco.caption_metrics(look)
    subject = {"final": digest(trained.path(trained.final)), "codecs": Manifest.of(ctx.inputs["codecs"]).digest}
    notes = [] if metrics else ["no golden record has attributes: there is nothing that an oracle could read back"]
    write_evidence(
        ctx.out,
        "Q1",
        [*metrics, *captions],
        subject=subject,
        samples=wrong,
        controls=[*controls, *step_zero],
        notes=notes,
    )
    parts(2, 5)
    metrics, free = sco.free_metrics(look)
    parts(3, 5)
    write_evidence(ctx.out, "Q2", metrics, subject=subject)
    metrics, nearest = sco.memory_metrics(look, ctx, workshop)
    parts(4, 5)
    judged, judges = pub.judged_metrics(look, ctx)
    published = [*pub.caption_metrics(look, ctx.inputs["shards"]), *judged]
    write_evidence(ctx.out, "T1", [*metrics, *published], subject={**subject, **judges})
    result: dict[str, Any] = {
        "attributes": {**attributes, **read},
        "free_running": free,
        "memory": nearest,
        "published": {f"{metric.slice} {metric.name}": metric.value for metric in published},
        "judges": judges,
    }
    write_json(ctx.out / "scores.json", result)
