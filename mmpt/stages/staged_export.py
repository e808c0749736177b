"""Stage staged_export: the folder to hand out, and does it give the run's ids, for gate X1. Profile keys it reads:
generate, export, codecs.audio.clip_seconds.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from mmpt.evaluate.checkpoint import EvalContext, Trained, digest
from mmpt.evaluate.exporting import compare, expected_outputs, lengths_of, tokenizer_metrics
from mmpt.evaluate.sets import Codecs, golden_sets
from mmpt.model.export import TOLERANCE, export_model, probes_of
from mmpt.store.canonical import read_json, write_json
from mmpt.store.evidence import Metric, write_evidence
from mmpt.store.stage import StageContext


def staged_export(ctx: StageContext) -> None:
    """export/ (the folder to hand out), export.json (what the model card needs), evidence/X1."""
    workshop, trained = EvalContext.of(ctx), Trained.of(ctx.inputs["train"])
    checkpoint, space = trained.path(trained.final), workshop.space
    sets, codecs = golden_sets(ctx.inputs["golden"]), Codecs.open(ctx.inputs["codecs"])
    dtype = ctx.profile.get("export.dtype") or ctx.dtype
    lengths = lengths_of(ctx.profile, codecs, space)
    ctx.progress(0, 2, "writing")
    parity = export_model(
        ctx.out / "export",
        base=ctx.inputs["base"],
        token_space=ctx.inputs["token_space"],
        space=space,
        adapter=checkpoint,
        codecs=ctx.inputs["codecs"],
        lengths=lengths,
        probes=probes_of(space, sets),
        dtype=getattr(torch, dtype),
    )
    wanted = expected_outputs(ctx, workshop, trained, sets)
    tolerance = max(TOLERANCE[getattr(torch, name)] for name in (dtype, ctx.dtype))
    metrics: list[Metric] = []
    judged: dict[str, Any] = {}
    for done, name in enumerate(ctx.profile.get("export.runtimes", ["transformers"])):
        ctx.progress(done + 1, 2, name)
        found, judged[name] = compare(ctx, name, getattr(torch, dtype), space, wanted, tolerance)
        metrics += found
    metrics += tokenizer_metrics(ctx.out / "export", ctx.inputs["token_space"] / "tokenizer", sets)
    adapter = digest(ctx.out / "export" / "adapter")
    write_json(
        ctx.out / "export.json",
        {
            "dtype": dtype,
            "step": f"step_{trained.final}",
            "adapter_sha256": adapter,
            "base": read_json(ctx.inputs["base"] / "base.json"),
            "parity": asdict(parity),
            "lengths": asdict(lengths),
            "space": space.to_json(),
            "token_space": space.digest,
            "runtimes": judged,
        },
    )
    write_evidence(ctx.out, "X1", metrics, subject={"final": adapter})
