"""report.json: everything that the renderers draw, read from one artifact folder in any state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from mmpt.gating.decision import read_decision
from mmpt.gating.history import read_history
from mmpt.gating.text import telling
from mmpt.report.changes import changes, key_of, state_of
from mmpt.report.provenance import provenance
from mmpt.report.runs import read_runs, record_run
from mmpt.store.canonical import read_json, read_sealed
from mmpt.store.errors import UserError
from mmpt.store.schema import validate

HISTORY = 60  # verdict changes shown, newest first
RUNS = 24  # past runs shown, this one included
ORDER = "SKWABCRQT"  # first letters of the gates in the order in which a run comes by them


class StageRow(Protocol):
    """What the graph needs of a row of the stage table."""

    @property
    def name(self) -> str: ...
    @property
    def doc(self) -> str: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def needs(self) -> tuple[str, ...]: ...


def build_report(
    root: Path,
    stages: Iterable[StageRow] = (),
    command: str = "doit",
    stale: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Read decision, verdicts, receipts, history and what stage render gathered below ``root``.

    Args:
        root: artifacts/<profile>.
        stages: the stage table, so that the graph also shows what was never built; without it the receipts
            there are draw the graph.
        command: what builds this profile again, for the remedies.
        stale: stage that a gate rests on and that is of another profile, code or input than the present ->
            why.

    Returns:
        The report as report.schema.json wants it; paths of pictures and sounds are relative to ``root``.

    Raises:
        UserError: no decision.json, one that is none, or an edited one.
    """
    decision, verdicts = _decided(root)
    data, base = _data(root)
    built = provenance(root)
    state = state_of(decision, verdicts)
    past = read_runs(root)
    if not past or past[-1]["state"] != state:
        past.append({"time": "", "state": state})
    previous = past[-2]["state"] if len(past) > 1 else None
    report = {
        "schema": "report/2",
        "profile": decision["profile"],
        "command": command,
        "stale": _worth_telling(root, stale or {}, verdicts),
        "decision": decision,
        "verdicts": verdicts,
        "data": data,
        "media_base": base,
        "graph": _graph(stages, built, verdicts),
        "provenance": built,
        "state": state,
        "previous": previous,
        "changes": changes(previous, state) if previous is not None else [],
        "runs": _runs(past[-RUNS:], verdicts),
        "history": list(reversed(read_history(root)))[:HISTORY],
    }
    validate(report, "report", where="report.json")
    return report


def record(root: Path) -> None:
    """Put the run below ``root`` on record in report/runs.jsonl if it differs from the last one there.

    Raises:
        UserError: no decision.json, one that is none, or an edited one.
    """
    record_run(root, state_of(*_decided(root)))


def _decided(root: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The decision and the verdicts it rests on, in the order in which a run comes by them."""
    decision = read_decision(root)
    gates = sorted(decision["gates"].items(), key=lambda pair: (ORDER.find(pair[0][0]) % (len(ORDER) + 1), pair[0]))
    return decision, [_verdict(root, gate_id, entry) for gate_id, entry in gates]


def _verdict(root: Path, gate_id: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict on disk; where there is none, the little that the decision says."""
    path = root / "gates" / gate_id / "verdict.json"
    try:
        body = read_sealed(path)
        validate(body, "verdict", where=path)
        return body
    except UserError as error:
        return {
            "schema": "verdict/2",
            "gate": gate_id,
            "title": entry["title"],
            "stage": entry["stage"],
            "blocks": entry["blocks"],
            "verdict": entry["verdict"],
            "reason": entry["reason"] or f"no verdict file: {error.what}",
            "subject": {},
            "subject_digest": "",
            "evidence_sha256": "",
            "policy_sha256": "",
            "checks": [],
            "waivers": [],
        }


def _data(root: Path) -> tuple[dict[str, Any], str]:
    """What stage render gathered, or else what can be gathered now; and the folder its media lie in."""
    path = root / "render" / "data" / "report_data.json"
    if path.is_file():
        data = read_json(path)
        validate(data, "report_data", where=path)
        return data, "render/data"
    from mmpt.report.collect import (
        collect,
    )  # brings numpy and scipy: half a second that a finished run need not pay

    inputs = {
        folder.parent.name: folder for folder in root.glob("*/data") if (folder.parent / "MANIFEST.sha256").is_file()
    }
    roots = {"corpus": inputs["corpus"]} if "corpus" in inputs else {}
    data = collect(inputs, root / "report", roots)
    return data, "report"


def _worth_telling(root: Path, stale: Mapping[str, str], verdicts: list[dict[str, Any]]) -> dict[str, str]:
    """Stale stages that have a result; of the others the gates have said it, unless all gates are good."""
    good = not any(one["verdict"] in ("NO_GO", "CANNOT_DECIDE") for one in verdicts)
    return {name: why for name, why in stale.items() if good or (root / name).exists()}


def _runs(past: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Past runs, oldest first and this one last; of their values those of the checks that now tell most."""
    told = [(one["gate"], telling(one["checks"])) for one in verdicts]
    keys = [key_of(gate, check) for gate, check in told if check is not None]
    return [
        {
            "time": one["time"],
            "decision": one["state"]["decision"],
            "verdicts": one["state"]["verdicts"],
            "values": {key: one["state"]["values"][key] for key in keys if key in one["state"]["values"]},
        }
        for one in past
    ]


def _graph(
    stages: Iterable[StageRow], built: Mapping[str, Any], verdicts: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """One node a stage: inputs, gates it needs, gates it measures, whether it has a result."""
    rows = {
        stage.name: {
            "name": stage.name,
            "doc": stage.doc,
            "inputs": list(stage.inputs),
            "needs": list(stage.needs),
        }
        for stage in stages
    }
    for one in built["stages"]:
        rows.setdefault(one["stage"], {"name": one["stage"], "doc": "", "inputs": one["inputs"], "needs": []})
    for verdict in verdicts:
        rows.setdefault(verdict["stage"], {"name": verdict["stage"], "doc": "", "inputs": [], "needs": []})
    have = {one["stage"] for one in built["stages"]}
    measured: dict[str, list[str]] = {}
    for verdict in verdicts:
        measured.setdefault(verdict["stage"], []).append(verdict["gate"])
    return [
        {
            **row,
            "inputs": [name for name in row["inputs"] if name in rows],
            "built": name in have,
            "gates": measured.get(name, []),
        }
        for name, row in rows.items()
    ]
