"""The gates on the HTML page: the summary row, the checks, the stages by verdict, past runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mmpt.gating.floors import is_firm
from mmpt.gating.text import bound_text, check_name, interval_text, number, telling
from mmpt.report.changes import key_of
from mmpt.report.charts import sparkline, task_graph
from mmpt.report.margins import missed, signs
from mmpt.report.metrics import meaning

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
    "NO-GO": "✗",
    "CANNOT-DECIDE": "?",
    "pass": "✓",
    "warn": "!",
    "fail": "✗",
    "waived": "✓",
    "cannot_decide": "?",
    "not_applicable": "–",
}
CHECK_TONES = {
    "pass": "go",
    "warn": "warn",
    "fail": "nogo",
    "waived": "waived",
    "cannot_decide": "unknown",
    "not_applicable": "off",
}
WORST = ("NO_GO", "CANNOT_DECIDE", "GO_WAIVED", "GO", "NOT_APPLICABLE")
SEEN = 12  # changed rows of one kind in sight; more open on demand
MOVES = 6  # gates named in a row of past runs


def counts(verdicts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How many gates have each verdict."""
    names = [one["verdict"] for one in verdicts]
    return [{"verdict": name, "count": names.count(name)} for name in WORST if name in names]


def gate_row(verdict: Mapping[str, Any], command: str) -> dict[str, Any]:
    """A verdict with the texts of its table row and of its checks."""
    told = telling(verdict["checks"])
    return {
        **verdict,
        "tone": TONES[verdict["verdict"]],
        "sign": SIGNS[verdict["verdict"]],
        "told": _check(told) if told is not None and told["value"] is not None else None,
        "warnings": sum(map(_warns, verdict["checks"])),
        "waive": _waive(verdict, command),
        "checks": [_check(one) for one in verdict["checks"]],
    }


def _warns(check: Mapping[str, Any]) -> bool:
    return check["status"] == "warn" or (check["status"] == "cannot_decide" and check["severity"] == "warn")


def _check(check: Mapping[str, Any]) -> dict[str, Any]:
    weak = check["severity"] != "block" and check["status"] == "cannot_decide"
    return {
        **check,
        "name": check_name(check),
        "meaning": meaning(check["metric"]),
        "shown": number(check["value"]) if check["value"] is not None else "",
        "bound_text": signs(bound_text(check)),
        "interval": interval_text(check),
        "missed": missed(check),
        "tone": "warn" if weak else CHECK_TONES[check["status"]],
        "sign": SIGNS[check["status"]],
    }


def _waive(verdict: Mapping[str, Any], command: str) -> str:
    """How a person may answer for a failed gate; only where something failed."""
    if verdict["verdict"] != "NO_GO":
        return ""
    if any(is_firm(verdict["gate"], one["id"]) for one in verdict["checks"] if one["status"] == "fail"):
        return "This gate has a floor: it cannot be waived."
    profile = command.removeprefix("doit").strip()
    call = f"doit waive {verdict['gate']} {profile} --reason TEXT --owner NAME --expires YYYY-MM-DD"
    return f"Who answers for this failure on this very artifact can say so: `{' '.join(call.split())}`"


def stage_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The stages in the order of the table: {"name", "doc", "before", "tone", "state", "gates", "under"}."""
    verdict_of = {one["gate"]: one["verdict"] for one in report["verdicts"]}
    stage_of = {one["gate"]: one["stage"] for one in report["verdicts"]}
    rows = []
    for node in report["graph"]:
        verdicts = [verdict_of[gate] for gate in node["gates"]]
        worst = next((name for name in WORST if name in verdicts), None)
        before = [*node["inputs"], *(stage_of[gate] for gate in node["needs"] if gate in stage_of)]
        rows.append(
            {
                "name": node["name"],
                "doc": node["doc"],
                "before": sorted(set(before) - {node["name"]}),
                "inputs": node["inputs"],
                "needs": node["needs"],
                "built": node["built"],
                "tone": "missing" if not node["built"] else TONES[worst] if worst else "plain",
                "gates": [{"gate": gate, "verdict": verdict_of[gate]} for gate in node["gates"]],
                "under": " ".join(f"{gate} {SIGNS[verdict_of[gate]]}" for gate in node["gates"])
                or ("" if node["built"] else "not built"),
            }
        )
    return rows


def graph(rows: list[dict[str, Any]]) -> Markup:
    """The stages drawn, coloured by the worst verdict of the gates that they measure."""
    return task_graph(rows)


def past_runs(runs: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Runs, newest first: {"time", "decision", "counts", "moves": gates whose verdict changed in it}."""
    rows = []
    for before, run in zip([None, *runs], runs, strict=False):
        moves = [] if before is None else _moves(before["verdicts"], run["verdicts"])
        named = [{"verdict": name} for name in run["verdicts"].values()]
        rows.append({**run, "counts": counts(named), "moves": moves[:MOVES], "more": len(moves[MOVES:])})
    return rows[::-1]


def _moves(before: Mapping[str, str], after: Mapping[str, str]) -> list[dict[str, str]]:
    return [
        {"gate": gate, "before": before.get(gate, "none"), "after": verdict}
        for gate, verdict in after.items()
        if before.get(gate) != verdict
    ]


def key_numbers(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each gate the check that tells most, over the runs: {"gate", "name", "bound", "line", "cells"}.

    Cells go from the newest run to the oldest: {"text", "tone", "sign"}, coloured by the gate's verdict then.
    """
    rows = []
    for verdict in report["verdicts"]:
        told = telling(verdict["checks"])
        if told is None or told["value"] is None:
            continue
        key = key_of(verdict["gate"], told)
        values = [run["values"].get(key) for run in report["runs"]]
        cells = [_cell(run, verdict["gate"], key) for run in reversed(report["runs"])]
        line = sparkline(f"{key} over the runs on record", values, told["bound"])
        named = {"name": check_name(told), "meaning": meaning(told["metric"])}
        bound = signs(bound_text(told))
        rows.append({"gate": verdict["gate"], **named, "bound": bound, "line": line, "cells": cells})
    return rows


def _cell(run: Mapping[str, Any], gate: str, key: str) -> dict[str, str]:
    verdict = run["verdicts"].get(gate)
    text = number(run["values"][key]) if key in run["values"] else "–"
    bad = verdict in ("NO_GO", "CANNOT_DECIDE")
    return {"text": text, "tone": TONES[verdict] if bad else "", "sign": SIGNS[verdict] if bad else ""}


def changed(rows: list[Mapping[str, str]]) -> list[dict[str, Any]]:
    """What changed since the last run by kind: {"name", "rows", "open"}."""
    kinds = {"decision": "Verdicts", "verdict": "Verdicts", "policy": "Verdicts", "value": "Measured values"}
    groups: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        groups.setdefault(kinds.get(row["what"], "Outputs of stages"), []).append(row)
    return [{"name": name, "rows": many, "open": len(many) <= SEEN} for name, many in groups.items()]
