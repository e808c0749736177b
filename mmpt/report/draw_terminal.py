"""The report on a terminal: one line per gate, what failed and what to do, and last the decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmpt.gating.text import gate_line
from mmpt.report.remedies import outdated, remedies


def terminal(report: Mapping[str, Any]) -> str:
    """Plain lines; the last one is the decision with its tasks and softenings."""
    decision = report["decision"]
    lines = [gate_line(verdict) for verdict in report["verdicts"]]
    for one in decision["softenings"]:
        lines.append(f"softened {one['what']}: {one['from']} -> {one['to']} by {one['where']} ({one['reason']})")
    for one in decision["overrides"]:
        change = f"{one['key']} {one['default']} -> {one['value']}"
        lines.append(f"override {one['gate']}.{one['check']}: {change} ({one['reason']})")
    for one in decision["waivers"]:
        lines.append(f"waived {one['gate']}.{one['check']} by {one['owner']} until {one['expires']}: {one['reason']}")
    lines += [f"out of date: {line['name']}: {line['said']}" for line in outdated(report)]
    todo = remedies(report)
    for one in todo:
        lines += ["", *_todo(one)]
    if todo or report["stale"]:
        lines += ["", f"then: {report['command']}  (builds only what a change touches, and decides again)"]
    return "\n".join([*lines, decision["headline"]]) + "\n"


def _todo(entry: Mapping[str, Any]) -> Iterator[str]:
    yield f"{entry['label']}: {entry['verdict']}"
    for step in entry["steps"]:
        for finding in step["findings"]:
            if finding["problem"]:
                yield f"    {finding['problem']} (measured: {finding['meaning']})"
            yield from (f"      {line['name']}: {line['said']}" for line in finding["lines"])
        if step["remedy"]:
            yield f"    next: {step['remedy']}"
    if entry["log"]:
        yield f"    log: {entry['log']}"
