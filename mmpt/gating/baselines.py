"""Accepted baselines: the values against which rules with ``reference: baseline`` compare. Kept in
gates/baselines.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpt.store.canonical import read_json, write_json
from mmpt.store.schema import validate

# profile -> gate -> metric -> slice -> value
Baselines = dict[str, dict[str, dict[str, dict[str, float]]]]


def load_baselines(path: Path) -> Baselines:
    """Read the accepted values; a missing file is an empty one.

    Raises:
        UserError: not JSON, or not baselines.
    """
    if not path.exists():
        return {}
    body = read_json(path)
    validate(body, "baselines", where=path)
    return body["profiles"]


def accept(
    path: Path, profile: str, gate_id: str, names: set[str], evidence: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Make the values in ``evidence`` the baseline of that profile and gate.

    Args:
        path: baselines.json.
        names: metrics to accept: those that a check of the gate compares with its baseline.
        evidence: the gate's evidence.

    Returns:
        metric -> slice -> accepted value.
    """
    values: dict[str, dict[str, float]] = {}
    for metric in evidence["metrics"]:
        if metric["name"] in names and metric["value"] is not None:
            values.setdefault(metric["name"], {})[metric["slice"]] = metric["value"]
    baselines = load_baselines(path)
    baselines.setdefault(profile, {})[gate_id] = values
    write_json(path, {"version": 1, "profiles": baselines})
    return values
