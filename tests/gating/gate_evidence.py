"""Fixture evidence of the gates, and a tiny artifact folder around it, as a stage would publish it."""

from __future__ import annotations

import json
from pathlib import Path

from mmpt.gating import Policy
from mmpt.store.canonical import digest_json, write_json
from mmpt.store.digests import Manifest, sha256_file

FIXTURES = Path(__file__).parent / "fixtures"


def fixture(gate_id: str, name: str) -> dict:
    """The good or the bad evidence of a gate."""
    return json.loads((FIXTURES / gate_id / f"{name}.json").read_text())


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
