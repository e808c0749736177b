"""Evidence and policy in, one verdict out. Nothing is measured, and no verdict on disk is trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmpt.gating.checks import Gate
from mmpt.gating.conditions import CONDITIONS
from mmpt.gating.defaults import default_gates
from mmpt.gating.floors import is_firm
from mmpt.gating.history import append_change, one_writer
from mmpt.gating.lineage import Lineage
from mmpt.gating.policy import RESTORE, Policy
from mmpt.gating.rules import CheckResult, apply_check, index_metrics
from mmpt.gating.waivers import Waiver
from mmpt.store.atomic import atomic_write
from mmpt.store.canonical import digest_json, pretty_json, read_sealed, seal
from mmpt.store.digests import Manifest, sha256_bytes, sha256_file
from mmpt.store.errors import UserError
from mmpt.store.evidence import read_evidence
from mmpt.store.schema import validate

GOOD = ("GO", "GO_WAIVED", "NOT_APPLICABLE")


@dataclass(frozen=True)
class Verdict:
    """The verdict of one gate.

    Args:
        verdict: GO | GO_WAIVED | NO_GO | CANNOT_DECIDE | NOT_APPLICABLE.
        reason: one line; empty for a plain GO.
        subject: what was measured, name -> sha256.
        subject_digest: one digest over it, to which waivers are bound.
        evidence_sha256: of the evidence file; empty: there is none.
        policy_sha256: of everything in the policy that this verdict depends on.
        checks: one result per check and slice.
        waivers: those that were used.
    """

    gate: str
    title: str
    stage: str
    blocks: str
    verdict: str
    reason: str
    subject: Mapping[str, str]
    subject_digest: str
    evidence_sha256: str
    policy_sha256: str
    checks: tuple[CheckResult, ...] = ()
    waivers: tuple[Waiver, ...] = ()

    @property
    def good(self) -> bool:
        """Whether a stage that needs this gate may run."""
        return self.verdict in GOOD

    def failing(self) -> list[CheckResult]:
        """The blocking checks that failed or could not be decided, failures first."""
        rank = {"fail": 0, "cannot_decide": 1}
        found = [one for one in self.checks if one.severity == "block" and one.status in rank]
        return sorted(found, key=lambda one: rank[one.status])

    def warnings(self) -> list[CheckResult]:
        """The checks that warn, and the warning checks that could not be decided."""
        unclear = [one for one in self.checks if one.severity == "warn" and one.status == "cannot_decide"]
        return [one for one in self.checks if one.status == "warn"] + unclear

    def to_json(self) -> dict[str, Any]:
        """The verdict as verdict.schema.json describes it."""
        return {
            "schema": "verdict/2",
            **vars(self),  # no asdict: it copies each value of each check, and a run asks for 24 verdicts several times
            "subject": dict(self.subject),
            "checks": [dict(vars(one)) for one in self.checks],
            "waivers": [dict(vars(one)) for one in self.waivers],
        }


def verdict_path(root: Path, gate_id: str) -> Path:
    """Path of the verdict of a gate."""
    return root / "gates" / gate_id / "verdict.json"


def evidence_path(root: Path, gate: Gate) -> Path:
    """Path of the evidence of a gate, in the data of the stage that measures it."""
    return root / gate.stage / "data" / "evidence" / f"{gate.id}.json"


def evaluate_gate(
    gate_id: str, root: Path, policy: Policy, *, write: bool = True, lineage: Lineage | None = None
) -> Verdict:
    """Decide one gate from its evidence and the policy.

    Args:
        root: artifacts/<profile>; it is not created for a profile that was never built.
        write: write gates/<ID>/verdict.json if its bytes change; a changed verdict is added to the history.
        lineage: shared by the gates of one evaluation, so that each receipt is read once.
    """
    gate = policy.gate(gate_id)
    if gate.requires is not None and gate.requires not in policy.holds:
        verdict = _without_evidence(gate, policy, "NOT_APPLICABLE", CONDITIONS[gate.requires])
    else:
        evidence, problem = _trusted_evidence(root, gate, lineage or Lineage(root))
        if evidence is None and gate.missing:
            problem = f"{problem}; check {gate.missing[0][0]}: {gate.missing[0][1]}"
        if evidence is None:
            verdict = _without_evidence(gate, policy, "CANNOT_DECIDE", problem)
        else:
            verdict = decide_evidence(gate, evidence, policy, sha256_file(evidence_path(root, gate)))
    if write and root.is_dir():
        _keep(root, verdict)
    return verdict


def decide_evidence(gate: Gate, evidence: Mapping[str, Any], policy: Policy, evidence_sha256: str) -> Verdict:
    """The verdict on evidence that was checked to be sound."""
    subject = dict(evidence["subject"])
    subject_digest = digest_json(subject)
    base = Verdict(
        gate.id,
        gate.title,
        gate.stage,
        gate.blocks,
        "CANNOT_DECIDE",
        "",
        subject,
        subject_digest,
        evidence_sha256,
        policy.gate_digest(gate.id),
    )
    try:
        metrics = index_metrics(evidence)
    except ValueError as error:
        return replace(base, reason=str(error))
    results = [one for check in gate.checks for one in apply_check(check, metrics, policy, gate.id)]
    results = _void(gate, results)
    results, used = _apply_waivers(gate, results, subject_digest, policy)
    results += unstated(gate)
    name, reason = _conclude(results)
    return replace(base, verdict=name, reason=reason, checks=tuple(results), waivers=tuple(used))


def unstated(gate: Gate) -> list[CheckResult]:
    """Checks that one file of gates/ lacks, or that ask something else there than the code: not to be decided."""
    default = default_gates().get(gate.id)
    known = {check.id: check for check in default.checks} if default else {}
    known |= {check.id: check for check in gate.checks if check.id not in known}
    return [
        CheckResult(
            id=name,
            metric=known[name].metric if name in known else "",
            slice="",
            severity="block",
            rule=known[name].rule if name in known else "equal",
            bound=None,
            warn_bound=None,
            compared_with=None,
            value=None,
            ci_low=None,
            ci_high=None,
            n=None,
            min_n=known[name].min_n if name in known else 1,
            unit="",
            status="cannot_decide",
            message="the check is not stated as it should be",
            remedy=RESTORE,
            note=why,
        )
        for name, why in gate.missing
    ]


def read_verdict(root: Path, gate_id: str) -> dict[str, Any]:
    """The verdict on disk, for display; a consumer re-decides instead.

    Raises:
        UserError: missing, edited, not a verdict.
    """
    path = verdict_path(root, gate_id)
    body = read_sealed(path)
    validate(body, "verdict", where=path)
    return body


def _trusted_evidence(root: Path, gate: Gate, lineage: Lineage) -> tuple[dict[str, Any] | None, str]:
    """The evidence, or why it cannot be trusted."""
    path, stage = evidence_path(root, gate), root / gate.stage
    if problem := lineage.problem(gate.stage):
        return None, problem
    if not path.is_file():
        return None, f"stage {gate.stage} left no evidence"
    try:
        manifest = dict(Manifest.parse(stage.joinpath("MANIFEST.sha256").read_text(encoding="utf-8")).entries)
        evidence = read_evidence(path)
    except (UserError, UnicodeDecodeError) as error:
        return None, f"unreadable evidence: {error}"
    name = path.relative_to(stage / "data").as_posix()
    if manifest.get(name) != sha256_file(path):
        return None, f"evidence/{gate.id}.json is not the file that stage {gate.stage} published"
    if evidence["gate"] != gate.id:
        return None, f"the evidence is for gate {evidence['gate']}"
    return evidence, ""


def _without_evidence(gate: Gate, policy: Policy, name: str, reason: str) -> Verdict:
    return Verdict(
        gate.id,
        gate.title,
        gate.stage,
        gate.blocks,
        name,
        reason,
        {},
        digest_json({}),
        "",
        policy.gate_digest(gate.id),
    )


def _void(gate: Gate, results: list[CheckResult]) -> list[CheckResult]:
    """Where a check says that the measurement is not to be trusted, what rests on it cannot decide either."""
    voided: dict[tuple[str, str], str] = {}
    for one in results:
        check = gate.check(one.id)
        if check is not None and check.voids and one.status == "cannot_decide":
            voided.update({(name, one.slice): one.id for name in check.voids})
    return [_voided(one, voided) for one in results]


def _voided(one: CheckResult, voided: Mapping[tuple[str, str], str]) -> CheckResult:
    for part in (one.slice, one.slice.split(".")[0], ""):
        cause = voided.get((one.id, part))
        if cause is not None and one.status in ("pass", "warn", "fail"):
            return replace(one, status="cannot_decide", note=f"rests on check {cause}")
    return one


def _apply_waivers(
    gate: Gate, results: Iterable[CheckResult], subject: str, policy: Policy
) -> tuple[list[CheckResult], list[Waiver]]:
    if policy.strict:
        return list(results), []
    kept, used = [], []
    for one in results:
        waiver = next(
            (
                each
                for each in policy.waivers
                if one.status == "fail"
                and not is_firm(gate.id, one.id)
                and one.value is not None
                and each.covers(gate.id, one.id, one.slice, subject, one.value, one.rule, policy.today)
            ),
            None,
        )
        if waiver is not None:
            used.append(waiver)
            one = replace(one, status="waived", note=f"{waiver.owner}, until {waiver.expires}: {waiver.reason}")
        kept.append(one)
    return kept, used


def _conclude(results: list[CheckResult]) -> tuple[str, str]:
    """The verdict over all results: a failure beats what cannot be decided, both beat a waiver."""
    blocking = [one for one in results if one.severity == "block"]
    for status, name in (("fail", "NO_GO"), ("cannot_decide", "CANNOT_DECIDE"), ("waived", "GO_WAIVED")):
        hits = [one for one in blocking if one.status == status]
        if hits:
            return name, _line(hits[0]) + (f" (and {len(hits) - 1} more)" if len(hits) > 1 else "")
    if results and all(one.status == "not_applicable" for one in results):
        return "NOT_APPLICABLE", "; ".join(dict.fromkeys(one.note for one in results))
    return "GO", ""


def _line(one: CheckResult) -> str:
    part = f" [{one.slice}]" if one.slice else ""
    return f"{one.id}{part}: {one.note or one.message}"


def _keep(root: Path, verdict: Verdict) -> None:
    """Write the verdict if its bytes change; add a changed verdict to the history.

    The history comes first: it can tell that a change is already in it, a verdict cannot tell that it is not.
    """
    path, body = verdict_path(root, verdict.gate), verdict.to_json()
    data = pretty_json(seal(body))
    if path.is_file() and path.read_bytes() == data:
        return
    validate(body, "verdict", where=path)
    with one_writer(root):
        before = _old_verdict(root, verdict.gate)
        if before != verdict.verdict:
            row = {"gate": verdict.gate, "from": before, "to": verdict.verdict, "reason": verdict.reason}
            row |= {"subject": verdict.subject_digest, "evidence": verdict.evidence_sha256}
            append_change(root, {**row, "policy": verdict.policy_sha256, "verdict": sha256_bytes(data)})
        atomic_write(path, data)


def _old_verdict(root: Path, gate_id: str) -> str:
    try:
        return str(read_sealed(verdict_path(root, gate_id)).get("verdict", ""))
    except UserError:
        return ""
