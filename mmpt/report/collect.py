"""What the report shows beyond verdicts: curves, trend, ablation, texts and corpus counts, from the stages'
outputs.

Every input may be absent: a run that was stopped shows what it has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmpt.report.gallery import collect_gallery
from mmpt.report.metrics import TEST_LOSS
from mmpt.store.canonical import read_json
from mmpt.store.jsonl import iter_jsonl, read_jsonl
from mmpt.store.numbers import Labels

POINTS = 240  # points a curve: more than a chart's pixels show nothing more
CURVES = re.compile(r"loss(_|$)|grad_norm$|lr(_|$)|.*_norm$")


def collect(
    inputs: Mapping[str, Path],
    out: Path,
    roots: Mapping[str, Path],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Gather the numbers and copy the gallery's pictures and sounds below ``out``.

    Args:
        inputs: stage -> its data folder, for the stages that have one.
        roots: media root -> folder, for originals; may be empty.
        progress: called with (items of the gallery done, all of them).
    """
    return {
        "schema": "report_data/2",
        "corpus": _corpus(inputs),
        "drops": _drops(inputs),
        "curves": [
            curve for stage in ("warmup", "train") if stage in inputs for curve in _curves(stage, inputs[stage])
        ],
        "trend": _trend(inputs.get("trend")),
        "ablation": _ablation(inputs.get("generate")),
        "texts": _texts(inputs.get("text_regression")),
        "gallery": collect_gallery(inputs, out, roots, progress),
    }


def _corpus(inputs: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Records by source, modality and split."""
    if "manifest" not in inputs:
        return []
    rows = iter_jsonl(inputs["split"] / "split.jsonl") if "split" in inputs else ()
    sides = Labels((row["id"], row["split"]) for row in rows)
    counts = Counter(
        (row["source"], row["modality"], sides.get(row["id"]) or "")
        for row in iter_jsonl(inputs["manifest"] / "manifest.jsonl")
    )
    return [
        {"source": source, "modality": modality, "split": split, "records": count}
        for (source, modality, split), count in sorted(counts.items())
    ]


def _drops(inputs: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Examples kept and dropped by task."""
    path = inputs["examples"] / "drops.json" if "examples" in inputs else None
    if path is None or not path.is_file():
        return []
    rows = []
    for task, counts in sorted(read_json(path).items()):
        if isinstance(counts, Mapping) and isinstance(counts.get("kept"), int):
            dropped = counts.get("dropped", {})
            rows.append(
                {
                    "task": task,
                    "kept": counts["kept"],
                    "dropped": sum(dropped.values()),
                    "reasons": ", ".join(f"{name} {count}" for name, count in sorted(dropped.items()) if count),
                }
            )
    return rows


def _curves(stage: str, folder: Path) -> list[dict[str, Any]]:
    """One curve a logged quantity: {"stage", "name", "steps", "values"}."""
    path = folder / "metrics.jsonl"
    rows = [row for row in iter_jsonl(path) if "step" in row] if path.is_file() else []
    names = sorted({key for row in rows for key in row if CURVES.match(key)})
    curves = []
    for name in names:
        points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
        if points:
            kept = points[:: -(-len(points) // POINTS)]
            kept += [points[-1]] if kept[-1] != points[-1] else []
            curves.append(
                {
                    "stage": stage,
                    "name": name,
                    "steps": [step for step, _ in kept],
                    "values": [value for _, value in kept],
                }
            )
    return [*curves, *_test_losses(stage, folder)]


def _test_losses(stage: str, folder: Path) -> list[dict[str, Any]]:
    """One curve a task: its test loss at the steps where it was measured."""
    path = folder / "checkpoints.json"
    rows = read_json(path).get("test_curve", []) if path.is_file() else []
    points: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for task, loss in row["test"].items():
            points.setdefault(f"{TEST_LOSS}{task}", []).append((row["step"], loss))
    return [
        {"stage": stage, "name": name, "steps": [step for step, _ in many], "values": [loss for _, loss in many]}
        for name, many in sorted(points.items())
    ]


def _trend(folder: Path | None) -> list[dict[str, Any]]:
    """One row a saved step and task: swapped and empty gap, decoded share."""
    if folder is None or not (folder / "trend.jsonl").is_file():
        return []
    rows = []
    for one in read_jsonl(folder / "trend.jsonl"):
        decoded = {entry["task"]: f"{entry['decoded']}/{entry['total']}" for entry in one.get("golden", [])}
        for task, entry in sorted(one.get("ablation", {}).items()):
            rows.append(
                {
                    "step": one["step"],
                    "task": task,
                    "decoded": decoded.get(task, ""),
                    **{name: entry[name]["mean"] for name in ("gap_swapped", "gap_empty") if name in entry},
                }
            )
    return rows


def _ablation(folder: Path | None) -> list[dict[str, Any]]:
    """One row per step, task and kind of wrong prompt: gap with interval, win rate."""
    rows = []
    for path in sorted(folder.glob("qual/step_*/prompt_ablation.json"), key=step_of) if folder is not None else ():
        body = read_json(path)
        tasks = body.get("tasks", body)
        for task, entry in sorted(tasks.items()):
            if not isinstance(entry, Mapping):
                continue
            rows += [
                {
                    "step": step_of(path),
                    "task": task,
                    "against": name,
                    "n": entry.get("n_examples"),
                    "gap": entry[f"gap_{name}"]["mean"],
                    "ci_low": entry[f"gap_{name}"]["ci_low"],
                    "ci_high": entry[f"gap_{name}"]["ci_high"],
                    "win_rate": entry.get(f"win_rate_{name}"),
                }
                for name in ("swapped", "empty")
                if f"gap_{name}" in entry
            ]
    return rows


def _texts(folder: Path | None) -> list[dict[str, Any]]:
    """The fixed prompts with their continuation before and after."""
    path = folder / "text_regression.json" if folder is not None else None
    if path is None or not path.is_file():
        return []
    return [{key: str(row[key]) for key in ("prompt", "before", "after")} for row in read_json(path).get("prompts", [])]


def step_of(path: Path) -> int:
    """The step in a path with a folder ``step_<k>``."""
    return next(int(part.removeprefix("step_")) for part in reversed(path.parts) if re.fullmatch(r"step_\d+", part))
