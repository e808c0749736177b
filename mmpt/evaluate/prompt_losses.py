"""Losses after own, swapped and empty prompts of the emit tasks, and scored outputs, as stage generate writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmpt.evaluate import ablation as abl
from mmpt.evaluate.ablating import Ablating
from mmpt.evaluate.checkpoint import Trained
from mmpt.evaluate.sets import Record
from mmpt.store.canonical import write_json
from mmpt.store.jsonl import read_jsonl, write_jsonl
from mmpt.store.stage import StageContext
from mmpt.store.tasks import EMIT_TASKS

SCORED = "scored_outputs.jsonl"
LOSSES = "ablation_losses.jsonl"


def emitting(ctx: StageContext, trained: Trained) -> Ablating:
    """The emit tasks at step 0 and at the end."""
    checkpoints = {f"step_{step}": trained.path(step) for step in (trained.initial, trained.final)}
    return Ablating(ctx, EMIT_TASKS, checkpoints)


def write_prompt_ablation(ctx: StageContext, found: dict[str, abl.Ablation], step: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    resamples = ctx.profile["evaluate.bootstrap"]
    report = {task: abl.report(one, resamples, ctx.seed) for task, one in found.items()}
    write_json(folder / "prompt_ablation.json", report)
    write_jsonl(folder / LOSSES, [row for one in found.values() for row in one.rows(step)])


def prompt_ablation(generate: Path, sets: dict[str, list[Record]], step: int) -> dict[str, abl.Ablation]:
    """What `write_prompt_ablation` wrote, by task."""
    rows = read_jsonl(generate / "qual" / f"step_{step}" / LOSSES)
    return {
        task: abl.Ablation.of_rows(records, [row for row in rows if row["task"] == task])
        for task, records in sets.items()
    }


def scored_outputs(generate: Path, step: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of scored_outputs.jsonl of stage generate by task."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in read_jsonl(generate / "qual" / f"step_{step}" / SCORED):
        rows.setdefault(row["task"], []).append(row)
    return rows
