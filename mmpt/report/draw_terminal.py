"""The report on a terminal: one line a gate, what to do, and last the decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmpt.gating.text import gate_line
from mmpt.report.remedies import remedies


def terminal(report: Mapping[str, Any]) -> str:
    """Plain lines; the last one is GO, NO-GO or CANNOT-DECIDE."""
    decision = report["decision"]
    lines = [gate_line(verdict) for verdict in report["verdicts"]]
    for one in decision["overrides"]:
        change = f"{one['key']} {one['default']} -> {one['value']}"
        lines.append(f"override {one['gate']}.{one['check']}: {change} ({one['reason']})")
    for one in decision["waivers"]:
        lines.append(
            f"waived {one['gate']}.{one['check']} by {one['owner']} until {one['expires']}: {one['reason']}"
        )
    for one in remedies(report["verdicts"]):
        lines += [f"{one['gate']}: {one['problem']}", f"    do: {one['remedy']}"]
    return "\n".join([*lines, decision["decision"]]) + "\n"
