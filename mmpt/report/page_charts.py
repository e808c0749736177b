"""The charts of the HTML page: training curves, evaluations during training, the prompt ablation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmpt.gating.text import number
from mmpt.report.charts import interval_chart, line_chart
from mmpt.report.metrics import TEST_LOSS

NATS = "nats per token"
TABLE_ROWS = 24  # rows of a curve's table of numbers
NAMES = {"grad_norm": "Gradient norm", "lr": "Learning rate"}
GAPS = {"gap_swapped": "swapped", "gap_empty": "empty"}


def curve_groups(curves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Charts: losses by task, of each task training beside test, losses by codebook, the rest one by one; each with its
    table of numbers.
    """
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    trained = {(curve["stage"], curve["name"]): curve for curve in curves}
    for curve in curves:
        if curve["name"].startswith(TEST_LOSS):
            task = curve["name"].removeprefix(TEST_LOSS)
            own = trained.get((curve["stage"], f"loss_{task}"))
            title = f"Loss of {task}, training beside test"
            groups[curve["stage"], title, NATS] = [*([own] if own else []), curve]
            continue
        groups.setdefault((curve["stage"], *_kind(curve["name"])), []).append(curve)
    return [_group(key, many) for key, many in sorted(groups.items(), key=_order)]


def _kind(name: str) -> tuple[str, str]:
    """Title and unit of the chart that a curve belongs to."""
    if name.startswith("loss"):
        part = "by codebook" if "_cb" in name or name.endswith("_image") else "by task"
        return f"Loss {'of end tokens' if name.endswith('_end') else part}", NATS
    if name.startswith("lr"):
        return NAMES["lr"], ""
    return NAMES.get(name, name.replace("_", " ").capitalize()), ""


def _group(key: tuple[str, str, str], curves: list[dict[str, Any]]) -> dict[str, Any]:
    stage, title, unit = key
    return {
        "stage": stage,
        "title": title,
        "curves": [{**one, "label": _label(one["name"])} for one in curves],
        "svg": line_chart(f"{stage}, {title}", curves, unit),
        "table": _table(curves),
    }


def _label(name: str) -> str:
    """ "loss_t2a_cb3" -> "t2a codebook 3"."""
    if name.startswith(TEST_LOSS):
        return f"{name.removeprefix(TEST_LOSS)} on test"
    part = "all tasks" if name == "loss" else name.removeprefix("loss_")
    return part.replace("_cb", " codebook ").replace("_", " ")


def _order(entry: tuple[tuple[str, str, str], Any]) -> tuple[bool, bool, str]:
    """Stage 4 before the warm-up, losses before the rest."""
    (stage, kind, _), _ = entry
    return stage != "train", not kind.startswith("Loss"), {"Loss by task": ""}.get(kind, kind)


def _table(curves: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of step and values, thinned to TABLE_ROWS with the last one kept."""
    steps = sorted({step for curve in curves for step in curve["steps"]})
    thin = steps[:: -(-len(steps) // TABLE_ROWS)] if steps else []
    thin += [steps[-1]] if steps and thin[-1] != steps[-1] else []
    columns = [dict(zip(curve["steps"], curve["values"], strict=True)) for curve in curves]
    return [[str(step), *(number(column[step]) if step in column else "" for column in columns)] for step in thin]


def along_the_way(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The small evaluations at saved steps: rows as gathered, and their gaps drawn over the step."""
    curves = []
    for task in sorted({row["task"] for row in rows}):
        for key, name in GAPS.items():
            points = [(row["step"], row[key]) for row in rows if row["task"] == task and row.get(key) is not None]
            if points:
                steps, values = map(list, zip(*points, strict=True))
                curves.append({"name": f"{task} {name}", "steps": steps, "values": values})
    return {"rows": rows, "curves": curves, "svg": line_chart("Gaps along the way", curves, NATS)}


def ablation(rows: list[dict[str, Any]], verdicts: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Gaps with their intervals, first against last step; the bound is that of gate B3 on the mean gap."""
    last = max((row["step"] for row in rows), default=0)
    drawn = [
        {**row, "label": f"{row['task']} {row['against']}, step {row['step']}", "last": row["step"] == last}
        for row in sorted(rows, key=lambda row: (row["task"], row["against"], row["step"]))
    ]
    bounds = [
        check["bound"]
        for verdict in verdicts
        for check in verdict["checks"]
        if verdict["gate"] == "B3" and check["id"].startswith("mean_swapped") and check["bound"] is not None
    ]
    bound = max(bounds, default=None)
    svg = interval_chart("gap to wrong prompts with its 95 % interval", drawn, bound)
    return {"rows": drawn, "svg": svg, "bound": bound}
