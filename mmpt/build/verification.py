"""`doit verify`: every published byte against its manifest, every manifest against its receipt, without any
cache.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmpt.build.declaration import Stage, measured_by
from mmpt.build.fingerprint import define
from mmpt.build.project import Project
from mmpt.build.receipts import (
    DATA,
    MANIFEST,
    RECEIPT,
    check_outputs,
    definition_of,
    read_receipt,
    subject_digest,
)
from mmpt.build.staleness import differences
from mmpt.build.tasks import policy_of
from mmpt.gating import evaluate_gate, read_verdict
from mmpt.store.digests import Manifest, sha256_bytes
from mmpt.store.errors import UserError


def verify(project: Project, *, deep: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Yield (what was looked at, what is wrong with it) for every stage that is published, then for the
    verdicts.

    Args:
        deep: also the outputs' schemas, the fingerprints against the present profile, code and inputs, and
            the verdicts, decided again from evidence and policy.
    """
    for stage in project.stages:
        if (project.root / stage.name).exists():
            found = _files(project, stage, deep)
            yield stage.name, found + (_content(project, stage) if deep and not found else [])
    if deep:
        for gate in measured_by(project.stages):
            if (project.root / "gates" / gate / "verdict.json").exists():
                yield f"gate {gate}", _verdict(project, gate)


def _files(project: Project, stage: Stage, deep: bool) -> list[str]:
    folder = project.root / stage.name
    try:
        receipt = read_receipt(folder / RECEIPT, deep=deep)
        text = (folder / MANIFEST).read_text()
        manifest = Manifest.parse(text, folder / MANIFEST)
    except (UserError, OSError, UnicodeDecodeError) as error:
        return [str(error)]
    wrong = (
        []
        if sha256_bytes(text.encode()) == subject_digest(receipt)
        else [f"{MANIFEST} is not the one its receipt names"]
    )
    return wrong + [f"{DATA}/{one}" for one in manifest.verify(folder / DATA)]


def _content(project: Project, stage: Stage) -> list[str]:
    wrong = []
    try:
        check_outputs(stage, project.root / stage.name / DATA)
    except UserError as error:
        wrong.append(str(error))
    receipt = read_receipt(project.root / stage.name / RECEIPT)
    return wrong + [f"stale: {one}" for one in differences(definition_of(receipt), define(project, stage))]


def _verdict(project: Project, gate: str) -> list[str]:
    try:
        known = read_verdict(project.root, gate)
    except UserError as error:
        return [str(error)]
    now = evaluate_gate(gate, project.root, policy_of(project), write=False)
    return (
        []
        if now.verdict == known["verdict"]
        else [f"says {known['verdict']}, evidence and policy say {now.verdict}"]
    )
