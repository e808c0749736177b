"""Fixture evidence of the gates, verdicts on measured evidence, and a tiny artifact folder as a stage publishes it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mmpt.gating import Policy, Verdict, load_policy
from mmpt.gating.text import check_name
from mmpt.gating.verdicts import decide_evidence
from mmpt.profile import load_profile
from mmpt.store.canonical import digest_json, write_json
from mmpt.store.digests import Manifest, sha256_file
from mmpt.store.evidence import Metric

FIXTURES = Path(__file__).parent / "fixtures"


def fixture(gate_id: str, name: str) -> dict:
    """The good or the bad evidence of a gate."""
    return json.loads((FIXTURES / gate_id / f"{name}.json").read_text())


def judged(gate_id: str, measured: dict | Iterable[Metric], *gates: dict, **profile) -> Verdict:
    """What a gate says of measured evidence (or metrics), under the smoke profile with these keys and overrides."""
    data = {**load_profile("smoke").data, "gates": list(gates), **profile}
    policy = load_policy(None, data)
    if not isinstance(measured, dict):
        measured = {"subject": {}, "metrics": [one.to_json() for one in measured]}
    return decide_evidence(policy.gate(gate_id), measured, policy, "0" * 64)


def completed(gate_id: str, metrics: Iterable[Metric], least_n: int = 0) -> dict:
    """Evidence of these metrics, on at least ``least_n`` items each; metrics that they lack are the good fixture's."""
    measured = [{**row, "n": max(row["n"], least_n)} for row in (one.to_json() for one in metrics)]
    names = {row["name"] for row in measured}
    rest = [row for row in fixture(gate_id, "good")["metrics"] if row["name"] not in names]
    return {"subject": {}, "metrics": [*measured, *rest]}


def failing(verdict: Verdict) -> set[str]:
    """ "check [slice]" of what fails, checks that cannot decide left out."""
    return {check_name(vars(one)) for one in verdict.checks if one.status == "fail" and one.severity == "block"}


def warning(verdict: Verdict) -> set[str]:
    """ "check [slice]" of what warns."""
    return {check_name(vars(one)) for one in verdict.checks if one.status == "warn"}


def undecided(verdict: Verdict) -> set[str]:
    """ "check [slice]" of what cannot decide."""
    return {check_name(vars(one)) for one in verdict.checks if one.status == "cannot_decide"}


def publish(root: Path, stage: str, gate_id: str, evidence: dict) -> Path:
    """Write evidence as the data of ``stage`` with a manifest over it; returns the evidence file."""
    path = root / stage / "data" / "evidence" / f"{gate_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(evidence))
    sign(root, stage)
    return path


def sign(root: Path, stage: str, inputs: tuple[str, ...] = ()) -> None:
    """Manifest and receipt over what lies in the stage's data now."""
    manifest = Manifest.of(root / stage / "data")
    (root / stage / "MANIFEST.sha256").write_text(str(manifest))
    dependencies = [
        {"name": f"artifact:{name}", "digest": {"sha256": sha256_file(root / name / "MANIFEST.sha256")}}
        for name in inputs
    ]
    statement = {
        "subject": [{"name": "MANIFEST.sha256", "digest": {"sha256": manifest.digest}}],
        "predicate": {"buildDefinition": {"resolvedDependencies": dependencies}},
    }
    write_json(
        root / stage / "receipt.json",
        {**statement, "digest": {"sha256": digest_json(statement)}},
        durable=False,
    )


def publish_all(root: Path, policy: Policy, without: tuple[str, ...] = ()) -> None:
    """Good evidence for every gate of the policy, except for those of ``without``."""
    for gate in policy.gates.values():
        if gate.id not in without:
            publish(root, gate.stage, gate.id, fixture(gate.id, "good"))
