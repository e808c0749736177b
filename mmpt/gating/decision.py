"""All gates together: whether a stage may run, and whether the result may be released."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmpt.gating.lineage import Lineage
from mmpt.gating.policy import Policy
from mmpt.gating.softening import headline
from mmpt.gating.verdicts import Verdict, evaluate_gate
from mmpt.store.canonical import digest_json, pretty_json, read_sealed, seal, write_sealed
from mmpt.store.digests import sha256_bytes, sha256_file
from mmpt.store.errors import EXIT_CANNOT_DECIDE, EXIT_GO, EXIT_NO_GO, Blocked
from mmpt.store.schema import validate

EXIT = {"GO": EXIT_GO, "NO-GO": EXIT_NO_GO, "CANNOT-DECIDE": EXIT_CANNOT_DECIDE}
EXIT_OF_VERDICT = {
    "GO": EXIT_GO,
    "GO_WAIVED": EXIT_GO,
    "NOT_APPLICABLE": EXIT_GO,
    "NO_GO": EXIT_NO_GO,
    "CANNOT_DECIDE": EXIT_CANNOT_DECIDE,
}


@dataclass(frozen=True)
class Decision:
    """GO | NO-GO | CANNOT-DECIDE with the verdicts it rests on; ``body`` is decision.json."""

    decision: str
    profile: str
    strict: bool
    verdicts: tuple[Verdict, ...]
    body: Mapping[str, Any]

    @property
    def exit_code(self) -> int:
        """0, 10 or 20."""
        return EXIT[self.decision]


def evaluate_all(root: Path, policy: Policy, *, write: bool = True) -> list[Verdict]:
    """The verdict of every gate, in the order of the policy."""
    lineage = Lineage(root)
    return [evaluate_gate(gate_id, root, policy, write=write, lineage=lineage) for gate_id in policy.gates]


def require(root: Path, gate_ids: Iterable[str], policy: Policy) -> None:
    """Check that gates are good. They are decided again from evidence and policy; no verdict on disk is trusted.

    Raises:
        Blocked: gates that are not GO, GO_WAIVED or NOT_APPLICABLE, one line each.
    """
    lineage = Lineage(root)
    verdicts = [evaluate_gate(gate_id, root, policy, lineage=lineage) for gate_id in gate_ids]
    bad = [one for one in verdicts if not one.good]
    if bad:
        raise Blocked([one.gate for one in bad], [f"{one.gate} {one.verdict}, {one.reason}" for one in bad])


def decide(
    root: Path,
    policy: Policy,
    profile: Mapping[str, Any] | None = None,
    *,
    stale: Collection[str] = (),
    write: bool = True,
) -> Decision:
    """Evaluate all gates and write ``decision.json``, if its bytes change.

    Args:
        root: artifacts/<profile>.
        profile: the profile's data; its digest goes into the decision.
        stale: stages that a gate rests on and whose result is not of the present profile and code.
        write: write verdicts and decision; False only derives them.
    """
    verdicts = tuple(evaluate_all(root, policy, write=write))
    name = outcome(policy, verdicts, stale)
    body = _body(name, root, policy, verdicts, profile)
    path = decision_path(root)
    if write and (not path.is_file() or path.read_bytes() != pretty_json(seal(body))):
        validate(body, "decision", where=path)
        write_sealed(path, body)
    return Decision(name, policy.profile, policy.strict, verdicts, body)


def decision_path(root: Path) -> Path:
    """Path of a profile's decision."""
    return root / "decision.json"


def read_decision(root: Path) -> dict[str, Any]:
    """The decision on disk.

    Raises:
        UserError: missing, edited, not a decision.
    """
    body = read_sealed(decision_path(root))
    validate(body, "decision", where=decision_path(root))
    return body


def withdraw(root: Path) -> None:
    """Delete the decision: the artifacts are about to change, and a killed run must not leave a GO."""
    decision_path(root).unlink(missing_ok=True)


def conclude(verdicts: Iterable[Verdict]) -> str:
    """NO_GO beats CANNOT_DECIDE, which beats GO."""
    names = {one.verdict for one in verdicts}
    if "NO_GO" in names:
        return "NO-GO"
    return "CANNOT-DECIDE" if "CANNOT_DECIDE" in names or not names else "GO"


def outcome(policy: Policy, verdicts: Iterable[Verdict], stale: Collection[str]) -> str:
    """The decision: GO on stale measurements is CANNOT-DECIDE, and strict refuses a softened GO."""
    name = conclude(verdicts)
    if name != "GO":
        return name
    return "CANNOT-DECIDE" if stale else "NO-GO" if policy.strict and policy.softenings else "GO"


def told(word: str, policy: Policy) -> str:
    """The decision in the one line that every view shows."""
    return headline(word, [one.to_json() for one in policy.softenings], policy.tasks, strict=policy.strict)


def _body(
    name: str, root: Path, policy: Policy, verdicts: tuple[Verdict, ...], profile: Mapping[str, Any] | None
) -> dict[str, Any]:
    used = {waiver for one in verdicts for waiver in one.waivers}
    stages = {path.parent.name: sha256_file(path) for path in sorted(root.glob("*/MANIFEST.sha256"))}
    return {
        "schema": "decision/1",
        "decision": name,
        "headline": told(name, policy),
        "tasks": list(policy.tasks),
        "profile": policy.profile,
        "strict": policy.strict,
        "gates": {one.gate: _entry(one) for one in verdicts},
        "digests": {
            "profile": digest_json(dict(profile)) if profile else "",
            "policy": policy.digest,
            "stages": stages,
        },
        "not_applicable": [row for one in verdicts for row in _not_applicable(one)],
        "softenings": [one.to_json() for one in policy.softenings],
        "overrides": [asdict(one) for one in policy.overrides],
        "waivers": [asdict(one) for one in policy.waivers if one in used],
        "unused_waivers": [asdict(one) for one in policy.waivers if one not in used],
    }


def _entry(verdict: Verdict) -> dict[str, Any]:
    """The decision's entry of a verdict, with the digest of the verdict's file."""
    kept = {key: getattr(verdict, key) for key in ("verdict", "title", "stage", "blocks", "reason")}
    digest = sha256_bytes(pretty_json(seal(verdict.to_json())))
    return {**kept, "sha256": digest, "warnings": len(verdict.warnings())}


def _not_applicable(verdict: Verdict) -> Iterator[dict[str, str]]:
    if verdict.verdict == "NOT_APPLICABLE" and not verdict.checks:
        yield {"gate": verdict.gate, "check": "", "slice": "", "reason": verdict.reason}
    for check in verdict.checks:
        if check.status == "not_applicable":
            yield {"gate": verdict.gate, "check": check.id, "slice": check.slice, "reason": check.note}
