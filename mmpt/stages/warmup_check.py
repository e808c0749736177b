"""Stage warmup_check: does the model read what it is shown, for gate W1. Profile keys it reads: evaluate.bootstrap."""

from __future__ import annotations

from mmpt.evaluate.checkpoint import digest
from mmpt.evaluate.read_gap import gaps, read_ablations, write_read_gap
from mmpt.model.adapter import WEIGHTS
from mmpt.store.evidence import write_evidence
from mmpt.store.stage import StageContext
from mmpt.store.tensors import load_tensors
from mmpt.train.draws import DRAWS, draw_metrics


def warmup_check(ctx: StageContext) -> None:
    """W1: after the warm-up, does a swapped medium make a caption less likely."""
    found = read_ablations(ctx)["warmup"]
    write_read_gap(ctx, "read_gap.json", {"warmup": found})
    metrics = [metric for one in found for metric in gaps(ctx, one)]
    drawn = ctx.inputs["warmup"] / DRAWS
    if drawn.is_file():  # imported rows come without; the policy knows by the profile whether they may
        metrics += draw_metrics(drawn, ctx.inputs["split"] / "split.jsonl")
    checkpoint = ctx.inputs["warmup"] / "checkpoint"
    stored = load_tensors(checkpoint / WEIGHTS, "torch")
    trained = any(bool(value.any()) for key, value in stored.items() if ".lora_B." in key)  # it starts at zero
    notes = ["the warm-up trained LoRA with the new rows (warmup.lora)"] if trained else []
    write_evidence(ctx.out, "W1", metrics, subject={"warmup": digest(checkpoint)}, notes=notes)
