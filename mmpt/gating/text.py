"""Verdicts as plain lines, for the gate scripts and the terminal. Works on verdicts as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmpt.gating.columns import columns, elided, wrapped

SIGN = {
    "min": ">=",
    "max": "<=",
    "equal": "=",
    "ci_low_above": ">",
    "ci_high_max": "<=",
    "ci_high_below": "<",
}
NAME_WIDTH = 30  # of a check in a table of less than WIDE columns; a longer name is elided
WIDE = 110
END = {"ci_low_above": "lower end", "ci_high_max": "upper end", "ci_high_below": "upper end"}


def number(value: float | int | None) -> str:
    """Four significant digits; whole numbers whole."""
    if value is None:
        return "none"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value)}"
    return f"{value:.4g}"


def compared(check: Mapping[str, Any]) -> float | None:
    """The number that the rule compares: the value, or the end of the interval that it names."""
    if check["rule"] == "ci_low_above":
        return check["ci_low"]
    return check["ci_high"] if check["rule"] in END else check["value"]


def bound_text(check: Mapping[str, Any]) -> str:
    """The bound with its sign, e.g. ">= 0.7" or "lower end > 0"."""
    if check["bound"] is None:
        return "no bound"
    end = f"{END[check['rule']]} " if check["rule"] in END else ""
    return f"{end}{SIGN[check['rule']]} {number(check['bound'])}"


def interval_text(check: Mapping[str, Any]) -> str:
    """ "0.12 .. 0.31", or nothing."""
    if check["ci_low"] is None or check["ci_high"] is None:
        return ""
    return f"{number(check['ci_low'])} .. {number(check['ci_high'])}"


def value_text(check: Mapping[str, Any], value: float | None) -> str:
    """The number of a check; of one that counts faults, of which none may be, with a word that says so: "0 wrong"."""
    faults = check["rule"] == "max" and check["bound"] == 0 and check["severity"] != "info"
    return f"{number(value)} wrong" if faults and value is not None and float(value).is_integer() else number(value)


def check_name(check: Mapping[str, Any]) -> str:
    """ "win_swapped [t2a]"."""
    return f"{check['id']} [{check['slice']}]" if check["slice"] else check["id"]


def check_line(check: Mapping[str, Any]) -> str:
    """One line: status, name, value against bound, n, interval."""
    head = f"{check['status']:14} {check['severity']:5} {check_name(check):32}"
    if check["value"] is None:
        return f"{head} {check['note'] or 'no value'}".rstrip()
    interval = interval_text(check)
    parts = [
        f"{number(check['value'])}{' ' + check['unit'] if check['unit'] else ''}",
        bound_text(check),
        f"n {check['n']}",
    ]
    parts += [f"95 % {interval}"] if interval else []
    parts += [check["note"]] if check["note"] else []
    return f"{head} {'  '.join(parts)}"


def shown_verdict(verdict: Mapping[str, Any]) -> str:
    """The verdict; a GO with a check that warns does not read like one without."""
    warns = any(one["status"] == "warn" for one in verdict["checks"])
    return f"{verdict['verdict']} (warns)" if warns and verdict["verdict"].startswith("GO") else verdict["verdict"]


def verdict_lines(verdict: Mapping[str, Any]) -> list[str]:
    """The whole gate: a head, a line per check, the remedy of what fails."""
    lines = [f"{verdict['gate']} {shown_verdict(verdict)}  {verdict['title']}"]
    lines += [f"  {verdict['reason']}"] if verdict["reason"] else []
    lines += [f"  {check_line(check)}" for check in verdict["checks"]]
    remedies = {
        check["remedy"]: None
        for check in verdict["checks"]
        if check["status"] in ("fail", "cannot_decide", "warn") and check["remedy"]
    }
    return lines + [f"  do: {remedy}" for remedy in remedies]


def gate_line(verdict: Mapping[str, Any]) -> str:
    """One line per gate: the most informative check, value against bound."""
    told = telling(verdict["checks"])
    shown = verdict["reason"]
    if told is not None and told["value"] is not None and told["status"] != "not_applicable":
        what = compared(told) if compared(told) is not None else told["value"]
        shown = f"{check_name(told)} {value_text(told, what)}, bound {bound_text(told)}, n {told['n']}"
        shown += f"; {told['note']}" if told["note"] else ""
    return f"{verdict['gate']}  {shown_verdict(verdict):14} {verdict['title']}: {shown}".rstrip(": ")


def gate_table(verdicts: Sequence[Mapping[str, Any]], width: int = 80) -> list[str]:
    """One aligned line per gate, value against bound; below the table what fails, why, and what to do.

    Args:
        verdicts: as JSON.
        width: columns of the terminal; where they suffice, the gates' titles stand at the end of the lines.
    """
    if not verdicts:
        return []
    rows = [_row(one, NAME_WIDTH if width < WIDE else WIDE) for one in verdicts]
    full = columns([row for row in rows if len(row) > 3], right={3, 6})
    room = width - max(map(len, full), default=0) - 2
    titles = room >= max(len(one["title"]) for one in verdicts)
    size = max(len(row[1]) for row in rows)
    lines = []
    for row, verdict in zip(rows, verdicts, strict=True):
        if len(row) > 3:
            line = full.pop(0)
            lines.append(f"{line:<{width - room}}{verdict['title']}" if titles else line)
        else:  # nothing was measured: why, instead of a value
            lines.append(f"{row[0]}  {row[1]:<{size}}  {row[2]}".rstrip())
    for row, verdict in zip(rows, verdicts, strict=True):
        if len(row) > 3 or any(one["severity"] == "block" for one in verdict["checks"]):
            lines += _problem(verdict, width)  # of the others the table has said all there is
    return lines


def _row(verdict: Mapping[str, Any], most: int) -> list[str]:
    """Gate, verdict, check, value, bound, n; or gate, verdict, and why there is no check to show."""
    told, head = telling(verdict["checks"]), [verdict["gate"], shown_verdict(verdict)]
    if told is None or told["value"] is None or told["status"] == "not_applicable":
        return [*head, verdict["reason"]]
    what = compared(told) if compared(told) is not None else told["value"]
    bound = bound_text(told).replace("lower end", "low").replace("upper end", "high")
    return [*head, elided(check_name(told), most), value_text(told, what), bound, "n", str(told["n"])]


def _problem(verdict: Mapping[str, Any], width: int) -> list[str]:
    """A gate that is not good, in full: every blocking check that did not pass, and what to do."""
    if verdict["verdict"] not in ("NO_GO", "CANNOT_DECIDE"):
        return []
    bad = [
        one for one in verdict["checks"] if one["severity"] == "block" and one["status"] in ("fail", "cannot_decide")
    ]
    head = f"{verdict['gate']} {verdict['verdict']}: {verdict['title']}"
    lines = ["", *wrapped(head if bad else f"{head}: {verdict['reason']}", width, "    ")]
    for one in bad:
        lines += wrapped(_finding(one), width, "      ", first="    ")
    for remedy in dict.fromkeys(one["remedy"] for one in bad if one["remedy"]):
        lines += wrapped(f"do: {remedy}", width, "        ", first="    ")
    return lines


def _finding(check: Mapping[str, Any]) -> str:
    """ "nll 0.031 (95 % 0.02 .. 0.04, n 20066), bound upper end <= 0.0198: text got worse"."""
    said = check["note"] or check["message"]
    if check["value"] is None:
        return f"{check_name(check)}: {said}"
    interval = interval_text(check)
    about = f"{'95 % ' + interval + ', ' if interval else ''}n {check['n']}"
    unit = f" {check['unit']}" if check["unit"] else ""
    return f"{check_name(check)} {number(check['value'])}{unit} ({about}), bound {bound_text(check)}: {said}"


# What only says that an interval may be trusted; a gate that passed has something better to show.
GUARDS = ("independent_groups",)


def telling(checks: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The check to show for a gate: of those that miss their bound the furthest off, of passed ones the nearest."""
    rank = {"fail": 0, "cannot_decide": 1, "waived": 2, "warn": 3, "pass": 4, "not_applicable": 5}
    weight = {"block": 0, "warn": 1, "info": 2}
    order = [
        (
            weight[one["severity"]] * (one["status"] == "cannot_decide"),
            rank[one["status"]],
            weight[one["severity"]],
            _distance(one) if one["status"] in ("pass", "not_applicable") else -_miss(one),
            place,
        )
        for place, one in enumerate(checks)
    ]
    return checks[min(order)[-1]] if order else None


def _miss(check: Mapping[str, Any]) -> float:
    """How far beyond its bound, relative to it; a bound of 0 leaves the number itself."""
    value, bound = compared(check), check["bound"]
    if value is None or bound is None:
        return 0.0
    return abs(value - bound) / (abs(bound) or 1.0)


def _distance(check: Mapping[str, Any]) -> float:
    """How far from the bound, relative to it: 0 at the bound; counts of nothing are far."""
    value, bound = compared(check), check["bound"]
    if check["metric"] in GUARDS and check["status"] == "pass":
        return 1e10
    if value is None or bound is None or value == bound:
        return 1e9
    return abs(value - bound) / max(abs(bound), 1e-9)
