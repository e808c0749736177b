"""The report as Markdown, for the summary page of a CI run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmpt.gating.text import bound_text, check_name, interval_text, number, telling
from mmpt.report.margins import missed, signs
from mmpt.report.metrics import meaning
from mmpt.report.remedies import outdated, remedies, warnings

SIGNS = {"GO": "✅", "GO_WAIVED": "☑️", "NO_GO": "❌", "CANNOT_DECIDE": "❓", "NOT_APPLICABLE": "➖"}
RUNS = 8  # past runs listed, newest first
CHANGES = 40  # changed values listed; all are in report.json


def markdown(report: Mapping[str, Any]) -> str:
    """Decision, what failed and what to do, the gate table, departures, ablation, past runs, what changed."""
    decision = report["decision"]
    parts = [
        f"# {_sign(decision['decision'])} {_cell(decision['headline'])}: profile {_cell(report['profile'])}",
        _counts(one["verdict"] for one in report["verdicts"]),
        _todo(report),
        _table(
            "Gates",
            ("gate", "verdict", "what decides", "value", "95 % interval", "bound", "missed by", "n"),
            map(_gate_row, report["verdicts"]),
        ),
        _folded(
            f"Warnings: {len(warnings(report))}",
            _table(
                "",
                ("check", "measured", "what it says", "next"),
                [
                    (f"{one['gate']} {one['name']}", one["said"], one["problem"], one["remedy"])
                    for one in warnings(report)
                ],
            ),
        ),
        _list("Softened: weaker than the defaults", map(_softening, decision["softenings"])),
        _list("Set by the profile", map(_override, decision["overrides"])),
        _list("Waived", map(_waiver, decision["waivers"])),
        _table(
            "Prompt ablation",
            ("step", "task", "against", "gap, nats per token", "95 % interval", "win rate", "n"),
            map(_ablation_row, report["data"]["ablation"]),
        ),
        _table(
            "Past runs",
            ("run", "decision", "gates"),
            map(_run_row, report["runs"][: -RUNS - 1 : -1]) if len(report["runs"]) > 1 else (),
        ),
        _folded(
            f"Changed since the last run: {len(report['changes'])}",
            _table(
                "",
                ("what", "name", "before", "after"),
                [(one["what"], one["name"], one["before"], one["after"]) for one in report["changes"][:CHANGES]],
            ),
        ),
        "Curves, gallery with sounds and pictures, and provenance are in `report/index.html`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _sign(name: str) -> str:
    return SIGNS[name.replace("-", "_")]


def _counts(names: Iterable[str]) -> str:
    names = list(names)
    shown = (f"{names.count(name)} {name.replace('_', ' ')}" for name in SIGNS if name in names)
    return f"{', '.join(shown)}"


def _todo(report: Mapping[str, Any]) -> str:
    """What failed, gate by gate: findings as a list, the remedy as its last item."""
    lines = [f"- out of date: **{line['name']}** {_cell(line['said'])}" for line in outdated(report)]
    lines += [f"- **Next:** run {_coded('`' + report['command'] + '`')}"] if lines else []
    for one in remedies(report):
        verdict = one["verdict"].replace("_", " ")
        lines += [
            *[""] * bool(lines),
            f"### {_sign(one['verdict'])} {_cell(one['label'])}: {verdict}",
            "",
        ]
        for step in one["steps"]:
            for finding in step["findings"]:
                said = [f"- {_cell(finding['problem'])} *({_cell(finding['meaning'])})*"]
                lines += said if finding["problem"] else []
                indent = "  " if finding["problem"] else ""
                lines += [f"{indent}- **{_cell(line['name'])}** {_cell(line['said'])}" for line in finding["lines"]]
            lines += [f"- **Next:** {_coded(step['remedy'])}"] if step["remedy"] else []
        lines += [f"- log: `{one['log']}`"] if one["log"] else []
    then = f"Then `{report['command']}`: it builds only what a change touches, and decides again."
    return "\n".join(["## What failed, and what to do", "", *lines, "", then]) if lines else ""


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>" if body else ""


def _list(title: str, lines: Iterable[str]) -> str:
    lines = list(lines)
    return "\n".join([f"## {title}", "", *(f"- {line}" for line in lines)]) if lines else ""


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    body = [f"| {' | '.join(_cell(str(cell)) for cell in row)} |" for row in rows]
    named = [f"## {title}", ""] if title else []
    lines = [*named, f"| {' | '.join(head)} |", "|---" * len(head) + "|", *body]
    return "\n".join(lines) if rows else ""


def _gate_row(verdict: Mapping[str, Any]) -> tuple[object, ...]:
    told, name = telling(verdict["checks"]), verdict["verdict"]
    head = (f"{verdict['gate']} {verdict['title']}", f"{_sign(name)} {name.replace('_', ' ')}")
    if told is None or told["value"] is None:
        return *head, verdict["reason"], "", "", "", "", ""
    what = f"{check_name(told)}: {meaning(told['metric'])}"
    value, bound = number(told["value"]), signs(bound_text(told))
    return *head, what, value, interval_text(told), bound, missed(told), told["n"]


def _run_row(run: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        run["time"] or "this run",
        f"{_sign(run['decision'])} {run['decision']}",
        _counts(run["verdicts"].values()),
    )


def _override(one: Mapping[str, Any]) -> str:
    change = f"{_cell(one['key'])}: {one['default']} to {one['value']}"
    return f"{one['gate']}.{_cell(one['check'])} {change}. {_cell(one['reason'])}"


def _softening(one: Mapping[str, Any]) -> str:
    change = f"{_cell(one['from'])} to {_cell(one['to'])}, by {_cell(one['where'])}"
    return f"{_cell(one['what'])}: {change}. {_cell(one['reason'])}"


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


def _coded(text: str) -> str:
    """Escaped text whose parts in backticks stay code."""
    parts = text.split("`")
    return "".join(f"`{part}`" if place % 2 else _cell(part, False) for place, part in enumerate(parts))


def _cell(text: str, whole: bool = True) -> str:
    """Text that cannot leave its table cell or become markup."""
    for sign in "\\`*_[]|#":
        text = text.replace(sign, f"\\{sign}")
    text = text.replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(text.split()) if whole else text
