"""The defaults of every check, in defaults.json: what policy.yaml and the gate scripts are compared with.

Softenings are found by comparison with these, so they are reviewed with the code. After a check was added or
changed on purpose, `python -m mmpt.gating.write_defaults` writes what gates/ states as the new defaults.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mmpt.gating.checks import Check, Gate

PATH = Path(__file__).with_name("defaults.json")
WORDS = ("message", "remedy", "more")  # the wording of a check makes it no weaker
PLAIN = {one.name: one.default for one in fields(Check)}


@functools.cache
def default_gates() -> Mapping[str, Gate]:
    """Gate id -> gate as the code knows it; its checks have no message and no remedy."""
    body = json.loads(PATH.read_bytes())
    return {gate_id: _gate(gate_id, one) for gate_id, one in body.items()}


def _gate(gate_id: str, body: Mapping[str, Any]) -> Gate:
    checks = tuple(_check(name, one) for name, one in body["checks"].items())
    return Gate(gate_id, body["title"], body["stage"], body["blocks"], checks, body.get("requires"))


def _check(name: str, body: Mapping[str, Any]) -> Check:
    values: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in body.items()}
    values["severity_when"] = tuple(sorted(body.get("severity_when", {}).items()))
    return Check(id=name, message="", remedy="", **values)


def defaults_text(gates: Mapping[str, Gate]) -> str:
    """defaults.json of these gates: one line for each check, so that a change of one is one line of a diff."""
    blocks = []
    for gate in gates.values():
        head = {"title": gate.title, "stage": gate.stage, "blocks": gate.blocks}
        head |= {} if gate.requires is None else {"requires": gate.requires}
        lines = [f"  {json.dumps(check.id)}: {json.dumps(_told(check))}" for check in gate.checks]
        checks = ",\n".join(lines)
        blocks.append(f'"{gate.id}": {json.dumps(head)[:-1]}, "checks": {{\n{checks}}}}}')
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def _told(check: Check) -> dict[str, Any]:
    """What decides, without what is as in any check."""
    told = {key: one for key, one in asdict(check).items() if key not in (*WORDS, "id") and one != PLAIN[key]}
    return told | ({"severity_when": dict(check.severity_when)} if check.severity_when else {})
