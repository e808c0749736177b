"""The policy: gates/policy.yaml with the overrides of a profile on it, checked against the floors."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mmpt.gating.baselines import load_baselines
from mmpt.gating.checks import Check, Gate
from mmpt.gating.conditions import CONDITIONS, absent_slices, holding
from mmpt.gating.floors import RISING, check_floors
from mmpt.gating.waivers import Waiver, load_waivers
from mmpt.gating.yaml_file import read_yaml
from mmpt.store.canonical import digest_json
from mmpt.store.errors import UserError
from mmpt.store.schema import nearest, validate

GATES_FOLDER = Path(__file__).resolve().parents[2] / "gates"


@dataclass(frozen=True)
class Override:
    """One number or severity that the profile sets for itself, with its reason."""

    gate: str
    check: str
    key: str
    default: float | int | str | None
    value: float | int | str
    reason: str


@dataclass(frozen=True)
class Policy:
    """All gates as they hold for one profile.

    Args:
        gates: gate id -> gate, overrides applied, in the order of the file.
        profile: name of the profile.
        holds: conditions that hold for the profile (``conditions.holding``).
        absent: slice -> why the profile has none of it.
        overrides: what the profile changed.
        waivers: all waivers on file; empty with strict.
        baselines: gate -> metric -> slice -> accepted value.
        strict: ignore waivers.
        today: the day against which waivers expire.
    """

    gates: Mapping[str, Gate]
    profile: str
    holds: frozenset[str]
    absent: Mapping[str, str]
    overrides: tuple[Override, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    baselines: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    strict: bool = False
    today: datetime.date = field(default_factory=datetime.date.today)

    def gate(self, gate_id: str) -> Gate:
        """The gate of that id.

        Raises:
            UserError: no such gate, with the nearest id.
        """
        if gate_id not in self.gates:
            raise UserError("no such gate", found=gate_id, fix=nearest(gate_id, self.gates))
        return self.gates[gate_id]

    def gate_digest(self, gate_id: str) -> str:
        """SHA-256 of what one verdict depends on, waivers aside: the verdict names those it used."""
        # Messages and remedies are part of a verdict, so a changed wording changes the digest too.
        return digest_json(
            {
                "gate": asdict(self.gate(gate_id)),
                "holds": sorted(self.holds),
                "absent": dict(self.absent),
                "baselines": self.baselines.get(gate_id, {}),
            }
        )

    @property
    def digest(self) -> str:
        """SHA-256 over all gates."""
        return digest_json({gate_id: self.gate_digest(gate_id) for gate_id in self.gates})


def load_policy(
    path: Path | None = None,
    profile: Mapping[str, Any] | None = None,
    *,
    strict: bool = False,
    today: datetime.date | None = None,
) -> Policy:
    """Read the policy, apply the profile's ``gates:`` overrides, and hold it against the floors.

    Args:
        path: policy.yaml, with waivers.yaml and baselines.json beside it; default: the repository's gates/.
        profile: a profile's data; None: no overrides, no condition holds, nothing is absent.

    Raises:
        UserError: schema violations, an unknown gate, check or condition, a floor lowered.
    """
    path = path or GATES_FOLDER / "policy.yaml"
    raw = read_yaml(path)
    validate(raw, "policy", where=path)
    gates = {gate_id: _gate(gate_id, body, path) for gate_id, body in raw["gates"].items()}
    profile = profile or {}
    gates, overrides = _override(gates, profile)
    check_floors(gates, f"{path} and profile {profile['name']}" if overrides else path)
    name = profile.get("name", "")
    return Policy(
        gates=gates,
        profile=name,
        holds=holding(profile),
        absent=absent_slices(profile) if profile else {},
        overrides=overrides,
        waivers=() if strict else load_waivers(path.with_name("waivers.yaml")),
        baselines=load_baselines(path.with_name("baselines.json")).get(name, {}),
        strict=strict,
        today=today or datetime.date.today(),
    )


def _gate(gate_id: str, body: Mapping[str, Any], where: Path) -> Gate:
    checks = tuple(_check(one, f"{where}: gates.{gate_id}") for one in body["checks"])
    ids = [check.id for check in checks]
    if len(set(ids)) != len(ids):
        raise UserError("two checks share an id", where=f"{where}: gates.{gate_id}", found=sorted(ids))
    _known_condition(body.get("requires"), f"{where}: gates.{gate_id}.requires")
    for check in checks:
        for name in check.voids:
            if name not in ids:
                raise UserError(
                    "voids a check that does not exist",
                    where=f"{where}: gates.{gate_id}.{check.id}",
                    found=name,
                    fix=nearest(name, ids),
                )
    return Gate(gate_id, body["title"], body["stage"], body["blocks"], checks, body.get("requires"))


def _check(body: Mapping[str, Any], where: str) -> Check:
    values = dict(body)
    where = f"{where}.{values['id']}"
    values["slices"] = tuple(values.get("slices", ("",)))
    values["voids"] = tuple(values.get("voids", ()))
    values["severity_when"] = tuple(sorted(values.get("severity_when", {}).items()))
    for condition in [values.get("requires"), *(name for name, _ in values["severity_when"])]:
        _known_condition(condition, where)
    if "threshold" not in values and "reference" not in values:
        raise UserError("a check without a bound", where=where, expected="threshold, reference or both")
    check = Check(**values)
    if check.optional and check.severity == "block":
        raise UserError(
            "a blocking check cannot be optional", where=where, fix="take `optional` out: not measured is no pass"
        )
    if check.warn_threshold is not None and check.threshold is not None:
        warns_first = _stricter(check.rule, check.warn_threshold, check.threshold)
        if not warns_first:
            raise UserError(
                "a warning that never comes before its block",
                where=where,
                found=f"warn_threshold {check.warn_threshold}, threshold {check.threshold}",
                expected="a warn_threshold stricter than the threshold",
            )
    return check


def _stricter(rule: str, one: float, other: float) -> bool:
    return one > other if rule in RISING else one < other


def _known_condition(name: str | None, where: str) -> None:
    if name is not None and name not in CONDITIONS:
        raise UserError("unknown condition", where=where, found=name, fix=nearest(name, CONDITIONS))


def _override(
    gates: dict[str, Gate], profile: Mapping[str, Any]
) -> tuple[dict[str, Gate], tuple[Override, ...]]:
    gates, overrides = dict(gates), []
    for number, entry in enumerate(profile.get("gates", ())):
        where = f"profile {profile['name']}: gates[{number}]"
        gate = gates.get(entry["gate"])
        if gate is None:
            raise UserError(
                "no such gate", where=where, found=entry["gate"], fix=nearest(entry["gate"], gates)
            )
        check = gate.check(entry["check"])
        if check is None:
            ids = [one.id for one in gate.checks]
            raise UserError(
                f"gate {gate.id} has no such check",
                where=where,
                found=entry["check"],
                fix=nearest(entry["check"], ids),
            )
        changes = {
            key: entry[key] for key in ("threshold", "warn_threshold", "min_n", "severity") if key in entry
        }
        for key, value in changes.items():
            if getattr(check, key) != value:
                overrides.append(
                    Override(gate.id, check.id, key, getattr(check, key), value, entry["reason"])
                )
        # A severity that the profile states holds as stated: a condition may not soften or harden it again.
        changed = replace(check, **changes, **({"severity_when": ()} if "severity" in changes else {}))
        gates[gate.id] = replace(gate, checks=tuple(changed if one is check else one for one in gate.checks))
    return gates, tuple(overrides)
