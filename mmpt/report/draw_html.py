"""The report as one HTML page without scripts and without a network: pictures and sounds are inside it."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpt.gating.text import bound_text, check_name, compared, interval_text, number, telling
from mmpt.report.charts import interval_chart, line_chart, task_graph, wave
from mmpt.report.remedies import remedies

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).resolve().parent
TYPES = {".png": "image/png", ".wav": "audio/wav"}
INSIDE = 16_000_000  # bytes of media put into the page; what is beyond lies beside it and is linked
TABLE_ROWS = 24  # rows of a curve's table of numbers
TONES = {
    "GO": "go",
    "GO_WAIVED": "waived",
    "NO_GO": "nogo",
    "CANNOT_DECIDE": "unknown",
    "NOT_APPLICABLE": "off",
    "NO-GO": "nogo",
    "CANNOT-DECIDE": "unknown",
}
SIGNS = {
    "GO": "✓",
    "GO_WAIVED": "✓",
    "NO_GO": "✗",
    "CANNOT_DECIDE": "?",
    "NOT_APPLICABLE": "–",
    "pass": "✓",
    "warn": "!",
    "fail": "✗",
    "waived": "✓",
    "cannot_decide": "?",
    "not_applicable": "–",
}
TASK_NAMES = {
    "t2i": "Text to picture",
    "t2a": "Text to sound",
    "i2t": "Picture to text",
    "a2t": "Sound to text",
}
VIEW_NAMES = {
    "reference": "reference",
    "first": "before training",
    "final": "after training",
    "sampled": "after, sampled",
}


def html(report: Mapping[str, Any], root: Path | None = None) -> str:
    """Draw the page.

    Args:
        report: as ``build_report`` returns it.
        root: the artifact folder that media paths start from; without it media are linked from the page's
            place in ``report/`` instead of being put into the page.
    """
    media = _Media(report["media_base"], root)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            decision=report["decision"],
            style=HERE.joinpath("page.css").read_text(encoding="utf-8"),
            todo=[{**one, "problem": _signs(one["problem"])} for one in remedies(report["verdicts"])],
            counts=_counts(report),
            gates=[_gate(one) for one in report["verdicts"]],
            graph=_graph(report),
            curves=_curve_groups(report["data"]["curves"]),
            ablation=_ablation(report["data"]["ablation"]),
            galleries=_galleries(report["data"]["gallery"], media),
            trend=report["data"]["trend"],
            number=number,
            tones=TONES,
            signs=SIGNS,
        )
    )


class _Media:
    """Turns a media path of the report into what an ``src`` attribute holds, within the page's budget."""

    def __init__(self, base: str, root: Path | None):
        self.base, self.root, self.left = base, root, INSIDE

    def source(self, path: str) -> str:
        file = self.root / self.base / path if self.root is not None else None
        if file is not None and file.is_file() and file.stat().st_size <= self.left:
            self.left -= file.stat().st_size
            return f"data:{TYPES[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
        return path if self.base == "report" else f"../{self.base}/{path}"


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _counts(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = [one["verdict"] for one in report["verdicts"]]
    return [{"verdict": name, "count": names.count(name)} for name in TONES if name in names]


def _gate(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """A verdict with the texts of its table row and of its checks."""
    told = telling(verdict["checks"])
    bad = [
        one
        for one in verdict["checks"]
        if one["status"] in ("fail", "cannot_decide") and one["severity"] == "block"
    ]
    remedy = bad[0]["remedy"] if bad else ""
    return {
        **verdict,
        "tone": TONES[verdict["verdict"]],
        "sign": SIGNS[verdict["verdict"]],
        "told": _check(told) if told is not None and told["value"] is not None else None,
        "remedy": remedy,
        "warnings": sum(
            one["status"] == "warn" or one["status"] == "cannot_decide" and one["severity"] == "warn"
            for one in verdict["checks"]
        ),
        "checks": [_check(one) for one in verdict["checks"]],
    }


def _check(check: Mapping[str, Any]) -> dict[str, Any]:
    shown = compared(check) if compared(check) is not None else check["value"]
    tone = {
        "pass": "go",
        "warn": "warn",
        "fail": "nogo",
        "waived": "waived",
        "cannot_decide": "unknown",
        "not_applicable": "off",
    }
    weak = check["severity"] != "block" and check["status"] == "cannot_decide"
    return {
        **check,
        "name": check_name(check),
        "shown": number(shown) if shown is not None else "",
        "bound_text": _signs(bound_text(check)),
        "interval": interval_text(check),
        "tone": "warn" if weak else tone[check["status"]],
        "sign": SIGNS[check["status"]],
    }


def _signs(text: str) -> str:
    return text.replace(">=", "≥").replace("<=", "≤")


def _graph(report: Mapping[str, Any]) -> Any:
    verdict_of = {one["gate"]: one["verdict"] for one in report["verdicts"]}
    stage_of = {one["gate"]: one["stage"] for one in report["verdicts"]}
    order = ("NO_GO", "CANNOT_DECIDE", "GO_WAIVED", "GO", "NOT_APPLICABLE")
    nodes = []
    for node in report["graph"]:
        verdicts = [verdict_of[gate] for gate in node["gates"]]
        worst = next((name for name in order if name in verdicts), None)
        tone = "missing" if not node["built"] else TONES[worst] if worst else "plain"
        under = " ".join(f"{gate} {SIGNS[verdict_of[gate]]}" for gate in node["gates"]) or (
            "" if node["built"] else "not built"
        )
        before = [*node["inputs"], *(stage_of[gate] for gate in node["needs"] if gate in stage_of)]
        nodes.append(
            {
                "name": node["name"],
                "before": sorted(set(before) - {node["name"]}),
                "tone": tone,
                "under": under,
            }
        )
    return task_graph(nodes)


def _curve_groups(curves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Charts: losses by task, losses by codebook, the rest one by one; each with its table of numbers."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for curve in curves:
        name = curve["name"]
        if name.startswith("loss"):
            kind = "Loss by codebook" if "_cb" in name else "Loss by task"
            unit = "nats a token"
        else:
            kind, unit = (
                {"grad_norm": "Gradient norm", "lr": "Learning rate"}.get(
                    name, name.replace("_", " ").capitalize()
                ),
                "",
            )
            kind = "Learning rate" if name.startswith("lr") else kind
        groups.setdefault((curve["stage"], kind, unit), []).append(curve)
    return [
        {
            "stage": stage,
            "title": kind,
            "curves": many,
            "svg": line_chart(f"{stage}, {kind}", many, unit),
            "table": _table(many),
        }
        for (stage, kind, unit), many in sorted(groups.items(), key=_curve_order)
    ]


def _curve_order(entry: tuple[tuple[str, str, str], Any]) -> tuple[bool, bool, str]:
    """Stage 4 before the warm-up, losses before the rest."""
    (stage, kind, unit), _ = entry
    return stage != "train", not kind.startswith("Loss"), {"Loss by task": ""}.get(kind, kind)


def _table(curves: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of step and values, thinned to TABLE_ROWS with the last one kept."""
    steps = sorted({step for curve in curves for step in curve["steps"]})
    thin = steps[:: -(-len(steps) // TABLE_ROWS)] if steps else []
    thin += [steps[-1]] if steps and thin[-1] != steps[-1] else []
    columns = [dict(zip(curve["steps"], curve["values"], strict=True)) for curve in curves]
    return [
        [str(step), *(number(column[step]) if step in column else "" for column in columns)] for step in thin
    ]


def _ablation(rows: list[dict[str, Any]]) -> dict[str, Any]:
    last = max((row["step"] for row in rows), default=0)
    drawn = [
        {**row, "label": f"{row['task']} {row['against']}, step {row['step']}", "last": row["step"] == last}
        for row in sorted(rows, key=lambda row: (row["task"], row["against"], row["step"]))
    ]
    return {"rows": drawn, "svg": interval_chart("gap to wrong prompts with its 95 % interval", drawn, 0.1)}


def _galleries(items: list[dict[str, Any]], media: _Media) -> list[dict[str, Any]]:
    groups = []
    for task, name in TASK_NAMES.items():
        mine = [
            {
                **item,
                "views": [_view(view, media) for view in item["views"]],
                "texts": [{**one, "name": VIEW_NAMES[one["what"]]} for one in item["texts"]],
            }
            for item in items
            if item["task"] == task
        ]
        if mine:
            groups.append({"task": task, "name": name, "items": mine, "emits": task in ("t2i", "t2a")})
    return groups


def _view(view: dict[str, Any], media: _Media) -> dict[str, Any]:
    name = VIEW_NAMES[view["what"]]
    return {
        **view,
        "name": name,
        "src": media.source(view["path"]),
        "wave": wave(view["peaks"]) if "peaks" in view else None,
        "pixelated": view.get("width", 999) < 128,
    }
