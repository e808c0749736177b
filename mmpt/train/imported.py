"""Stages warmup and train of a profile with `inputs:`: checkpoints that were trained elsewhere.

warmup  inputs.stage3, lora, train.layer_norm
train   inputs.stage4, lora, train.layer_norm, train.row_len, mixture.weights

A trained checkpoint has no step of ours behind it: step_0 is the Stage-3 checkpoint, B1 compares with that,
and B2, which watches training, does not apply.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from mmpt.model.adapter import WEIGHTS
from mmpt.model.imported import load_lora, load_rows
from mmpt.model.multimodal import MultimodalLM
from mmpt.shards.example_set import ExampleSet
from mmpt.store.canonical import write_json
from mmpt.store.digests import sha256_file
from mmpt.store.evidence import write_evidence
from mmpt.store.stage import StageContext
from mmpt.store.tasks import TASKS
from mmpt.tokens.space import load
from mmpt.train.evidence import loss_metrics
from mmpt.train.heldout import ItemLosses, item_losses, sample
from mmpt.train.heldout_losses import TEST_ITEMS
from mmpt.train.independent import independent_metrics


def warmup(ctx: StageContext) -> None:
    """The Stage-3 rows as an adapter whose LoRA does nothing yet: checkpoint/."""
    model = _model(ctx)
    load_rows(model, Path(ctx.profile["inputs.stage3"]))
    model.save_adapter(ctx.out / "checkpoint")
    ctx.log(f"{model.space.n_new} rows of {Path(ctx.profile['inputs.stage3']).name}")


def train(ctx: StageContext) -> None:
    """The Stage-4 checkpoint as the result of training: checkpoints/, checkpoints.json, drops.json, B1."""
    step, model = ctx.profile["inputs.stage4.step"], _model(ctx)
    first, last = (ctx.out / "checkpoints" / f"step_{one}" for one in (0, step))
    shutil.copytree(ctx.inputs["warmup"] / "checkpoint", first)
    model.load_adapter(first)
    start = _test_losses(ctx, model)
    load_rows(model, Path(ctx.profile["inputs.stage4.rows"]))
    over = load_lora(model, Path(ctx.profile["inputs.stage4.lora"]))
    if over:
        ctx.log(f"whole matrices in the LoRA folder are passed over, the rows file counts: {', '.join(over)}")
    model.save_adapter(last)
    _write_evidence(ctx, model, last, start, _test_losses(ctx, model))
    write_json(
        ctx.out / "checkpoints.json",
        {
            "initial": first.name,
            "final": last.name,
            "best": last.name,
            "saved": [first.name, last.name],
            "val_loss": {first.name: None, last.name: None},
            "stopped": None,
        },
    )
    shutil.copyfile(ctx.inputs["examples"] / "drops.json", ctx.out / "drops.json")


def _model(ctx: StageContext) -> MultimodalLM:
    return MultimodalLM.from_base(
        ctx.inputs["base"] / "model",
        load(ctx.inputs["token_space"]),
        ctx.profile["lora"],
        seed=ctx.seed,
        dtype=getattr(torch, ctx.dtype),
        device=ctx.device,
        layer_norm=ctx.profile.get("train.layer_norm", False),
    )


def _sets(ctx: StageContext, model: MultimodalLM) -> dict[str, ExampleSet]:
    """Test sets of the tasks that have a weight and records."""
    weights = ctx.profile["mixture.weights"]
    sets = {
        task: ExampleSet.open(ctx.inputs["examples"], ctx.inputs["shards"], model.space, task, "test")
        for task in TASKS
        if weights.get(task, 0) > 0
    }
    return {task: one for task, one in sets.items() if len(one)}


def _test_losses(ctx: StageContext, model: MultimodalLM) -> dict[str, ItemLosses]:
    model.eval()
    return {
        task: item_losses(model, one, sample(one, TEST_ITEMS), ctx.profile["train.row_len"])
        for task, one in _sets(ctx, model).items()
    }


def _write_evidence(
    ctx: StageContext,
    model: MultimodalLM,
    last: Path,
    start: dict[str, ItemLosses],
    end: dict[str, ItemLosses],
) -> None:
    losses = {task: found.full.tolist() for task, found in end.items()}
    chosen = {task: (one, sample(one, TEST_ITEMS)) for task, one in _sets(ctx, model).items()}
    metrics = [
        *loss_metrics({task: found.full.tolist() for task, found in start.items()}, losses),
        *independent_metrics(ctx, last, model.space, chosen, losses),
    ]
    subject = {"checkpoint": sha256_file(last / WEIGHTS), "token_space": model.space.digest}
    notes = ["an imported checkpoint: losses are compared with those of the Stage-3 checkpoint"]
    write_evidence(ctx.out, "B1", metrics, subject=subject, notes=notes)
