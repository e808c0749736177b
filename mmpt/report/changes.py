"""What changed since the run before: decision, verdicts, measured values and stage outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def state_of(decision: Mapping[str, Any], verdicts: list[dict[str, Any]]) -> dict[str, Any]:
    """The comparable part of a run: what goes on record, and what the next run is compared with."""
    return {
        "decision": decision["decision"],
        "verdicts": {one["gate"]: one["verdict"] for one in verdicts},
        "values": {
            key_of(one["gate"], check): check["value"]
            for one in verdicts
            for check in one["checks"]
            if check["value"] is not None
        },
        "stages": dict(decision["digests"]["stages"]),
        "policy": decision["digests"]["policy"],
    }


def key_of(gate: str, check: Mapping[str, Any]) -> str:
    """ "B3 win_swapped [t2a]"."""
    return f"{gate} {check['id']}" + (f" [{check['slice']}]" if check["slice"] else "")


def changes(before: Mapping[str, Any], state: Mapping[str, Any]) -> list[dict[str, str]]:
    """The rows {"what", "name", "before", "after"} that lead from one state to the next."""
    rows = (
        [] if before["decision"] == state["decision"] else [_row("decision", "", before["decision"], state["decision"])]
    )
    rows += _differences("verdict", before["verdicts"], state["verdicts"])
    rows += _differences("value", before["values"], state["values"])
    rows += _differences("output", before["stages"], state["stages"])
    if before["policy"] != state["policy"]:
        rows.append(_row("policy", "", before["policy"][:12], state["policy"][:12]))
    return rows


def _differences(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        _row(what, name, _short(before.get(name)), _short(after.get(name)))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _row(what: str, name: str, before: str, after: str) -> dict[str, str]:
    return {"what": what, "name": name, "before": before, "after": after}


def _short(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.5g}"
    text = str(value)
    return text[:12] if len(text) == 64 else text
