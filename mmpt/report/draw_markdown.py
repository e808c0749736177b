"""The report as Markdown, for the summary page of a CI run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmpt.gating.text import bound_text, check_name, compared, interval_text, number, telling
from mmpt.report.remedies import remedies

VERDICTS = ("GO", "GO_WAIVED", "NO_GO", "CANNOT_DECIDE", "NOT_APPLICABLE")


def markdown(report: Mapping[str, Any]) -> str:
    """Decision, what to do, the gate table, what the profile changed, what changed since the last run."""
    decision, names = report["decision"], [one["verdict"] for one in report["verdicts"]]
    counts = ", ".join(f"{names.count(name)} {_cell(name)}" for name in VERDICTS if name in names)
    parts = [
        f"# {decision['decision']}: profile {_cell(report['profile'])}\n\n{counts}",
        _list(
            "What to do",
            [
                f"**{one['gate']}** {_cell(one['problem'])}. {_cell(one['remedy'])}"
                for one in remedies(report["verdicts"])
            ],
        ),
        _table(
            "Gates",
            ("gate", "verdict", "what decides", "value", "bound", "n", "95 % interval"),
            map(_gate_row, report["verdicts"]),
        ),
        _list("Set by the profile", map(_override, decision["overrides"])),
        _list("Waived", map(_waiver, decision["waivers"])),
        _table(
            "Prompt ablation",
            ("step", "task", "against", "gap, nats a token", "95 % interval", "win rate", "n"),
            map(_ablation_row, report["data"]["ablation"]),
        ),
        _table(
            "Changed since the last run",
            ("what", "name", "before", "after"),
            [(one["what"], one["name"], one["before"], one["after"]) for one in report["changes"]],
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _list(title: str, lines: Iterable[str]) -> str:
    lines = list(lines)
    return "\n".join([f"## {title}", "", *(f"- {line}" for line in lines)]) if lines else ""


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    rows = [f"| {' | '.join(_cell(str(cell)) for cell in row)} |" for row in rows]
    lines = [f"## {title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows]
    return "\n".join(lines) if rows else ""


def _gate_row(verdict: Mapping[str, Any]) -> tuple[object, ...]:
    told, head = telling(verdict["checks"]), (f"{verdict['gate']} {verdict['title']}", verdict["verdict"])
    if told is None or told["value"] is None:
        return *head, verdict["reason"], "", "", "", ""
    value = compared(told) if compared(told) is not None else told["value"]
    return *head, check_name(told), number(value), bound_text(told), told["n"], interval_text(told)


def _override(one: Mapping[str, Any]) -> str:
    change = f"{_cell(one['key'])}: {one['default']} to {one['value']}"
    return f"{one['gate']}.{_cell(one['check'])} {change}. {_cell(one['reason'])}"


def _waiver(one: Mapping[str, Any]) -> str:
    who = f"{_cell(one['owner'])} until {one['expires']}"
    return f"{one['gate']}.{_cell(one['check'])} by {who}: {_cell(one['reason'])}"


def _ablation_row(one: Mapping[str, Any]) -> tuple[object, ...]:
    interval = f"{number(one['ci_low'])} .. {number(one['ci_high'])}"
    return (
        one["step"],
        one["task"],
        one["against"],
        number(one["gap"]),
        interval,
        number(one["win_rate"]),
        one["n"],
    )


def _cell(text: str) -> str:
    """Text that cannot leave its table cell or become markup."""
    for sign in "\\`*_[]|#":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("<", "&lt;").replace(">", "&gt;").split())
