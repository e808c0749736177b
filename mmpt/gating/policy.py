"""The policy: the checks of the gate scripts with the numbers of policy.yaml and a profile, within the floors."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mmpt.gating.baselines import load_baselines
from mmpt.gating.checks import Check, Gate
from mmpt.gating.conditions import CONDITIONS, absent_slices, holding, trained_tasks
from mmpt.gating.defaults import default_gates
from mmpt.gating.floors import check_floors
from mmpt.gating.scripts import Script, load_scripts
from mmpt.gating.softening import Softening, lower_bound, softened_checks, softened_profile
from mmpt.gating.waivers import Waiver, check_reason, load_waivers
from mmpt.gating.yaml_file import read_yaml
from mmpt.store.canonical import digest_json
from mmpt.store.errors import UserError
from mmpt.store.resources import shared
from mmpt.store.schema import nearest, validate

GATES_FOLDER = shared("gates")
STRICTER = {"min": "ci_low_above", "max": "ci_high_max"}  # the end of an interval instead of its middle
OVERRIDABLE = ("threshold", "warn_threshold", "min_n", "severity")
RESTORE = "restore it, e.g. `git checkout gates/`"


@dataclass(frozen=True)
class Override:
    """A number or severity of a check that the profile sets, with its reason; stricter or weaker than the default."""

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
        gates: gate id -> gate, overrides applied, in the order of policy.yaml.
        profile: name of the profile.
        holds: conditions that hold for the profile (``conditions.holding``).
        absent: slice -> why the profile has none of it.
        tasks: those that the profile trains and is judged on.
        overrides: what the profile changed.
        softenings: everything that is weaker than the defaults.
        waivers: all waivers on file; empty with strict.
        baselines: gate -> metric -> slice -> accepted value.
        strict: ignore waivers, refuse softenings.
        today: the date by which waivers expire.
    """

    gates: Mapping[str, Gate]
    profile: str
    holds: frozenset[str]
    absent: Mapping[str, str]
    tasks: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()
    softenings: tuple[Softening, ...] = ()
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
        """SHA-256 of all that one verdict depends on, except for waivers: the verdict lists those."""
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
    file: str = "",
    strict: bool = False,
    today: datetime.date | None = None,
) -> Policy:
    """Read the policy, apply the profile's ``gates:`` overrides, and compare it with floors and defaults.

    Args:
        path: policy.yaml, with the gate scripts, waivers.yaml and baselines.json beside it; default: the
            repository's gates/.
        profile: a profile's data; None: no overrides, no condition holds, nothing is absent.
        file: the profile's file as softenings name it; default: <name>.yaml.

    Raises:
        UserError: schema violations, a bad gate script, an unknown gate, check or condition, a check stated twice, a
            lowered floor.
    """
    path = path or GATES_FOLDER / "policy.yaml"
    profile, today = profile or {}, today or datetime.date.today()
    name = profile.get("name", "")
    scripts = load_scripts(path.parent)
    stated = _stated(path, scripts)
    gates, overrides = _override(stated, profile)
    check_floors(gates, f"{path} and profile {name}" if overrides else path)
    holds, absent = holding(profile), absent_slices(profile) if profile else {}
    softenings = _softenings(gates, overrides, scripts, profile, holds, absent, file or f"{name}.yaml")
    return Policy(
        gates=gates,
        profile=name,
        holds=holds,
        absent=absent,
        tasks=trained_tasks(profile),
        overrides=overrides,
        softenings=tuple(softenings),
        waivers=() if strict else load_waivers(path.with_name("waivers.yaml"), today),
        baselines=load_baselines(path.with_name("baselines.json")).get(name, {}),
        strict=strict,
        today=today,
    )


def stated_gates() -> dict[str, Gate]:
    """The gates as scripts and policy.yaml state them, before any profile. Raises as ``load_policy`` does."""
    return _stated(GATES_FOLDER / "policy.yaml", load_scripts(GATES_FOLDER))


def _stated(path: Path, scripts: Mapping[str, Script]) -> dict[str, Gate]:
    """Every gate that the code knows or that a script states, in the order of policy.yaml."""
    raw = read_yaml(path)
    validate(raw, "policy", where=path)
    numbers, defaults = raw["gates"], default_gates()
    known = {*defaults, *scripts}
    for gate_id in numbers:
        if gate_id not in known:
            raise UserError("a gate without a script", where=f"{path}: gates.{gate_id}", fix=nearest(gate_id, known))
    ids = dict.fromkeys([*numbers, *defaults, *scripts])
    return {
        gate_id: _gate(gate_id, scripts.get(gate_id), numbers.get(gate_id, {}), defaults.get(gate_id), path)
        for gate_id in ids
    }


def _gate(gate_id: str, script: Script | None, numbers: Mapping[str, Any], default: Gate | None, path: Path) -> Gate:
    """One gate of its script and its numbers; what the code knows and one of them lacks is reported as missing."""
    known = {check.id for check in default.checks} if default else set()
    asked = script.checks if script else {}
    for name in numbers:
        if script is not None and name not in known | set(asked):
            fix = nearest(name, known | set(asked))
            raise UserError("no such check", where=f"{path}: gates.{gate_id}.{name}", fix=fix)
    lacking = path.parent / f"{gate_id.lower()}_*.py" if script is None else script.path
    missing = dict.fromkeys(sorted(known - set(asked)), f"gates/{lacking.name} does not state it")
    missing |= {name: "gates/policy.yaml does not state it" for name in [*asked, *missing] if name not in numbers}
    checks = (
        tuple(
            _check(gate_id, {**body, **numbers[name]}, script.path, path)
            for name, body in asked.items()
            if name in numbers
        )
        if script
        else ()
    )
    if script is None:
        assert default is not None  # every id comes from a script or from the defaults
        return replace(default, checks=(), missing=tuple(missing.items()))
    body = script.body
    _known_condition(body.get("requires"), f"{script.path}: requires")
    ids = [check.id for check in checks]
    for check in checks:
        if default is not None and (other := _other(check, default.check(check.id))):
            missing[check.id] = f"gates/{script.path.name} asks something else by that name: {other}"
        for name in check.voids:
            if name not in ids and name not in missing:
                raise UserError(
                    "voids a check that does not exist",
                    where=f"{script.path}: {check.id}",
                    found=name,
                    fix=nearest(name, ids),
                )
    head = (gate_id, body["title"], body["stage"], body["blocks"])
    return Gate(*head, checks, body.get("requires"), tuple(missing.items()))


def _other(check: Check, default: Check | None) -> str:
    """In what a check asks something else than the code's of that id; empty where it does not."""
    for key in ("metric", "rule", "compared_with", "each"):
        mine, known = getattr(check, key), getattr(default, key, "")
        if default is not None and mine != known and not (key == "rule" and mine == STRICTER.get(known)):
            return f"{key} {mine}, not {known}"
    return ""


def _check(gate_id: str, stated: Mapping[str, Any], script: Path, path: Path) -> Check:
    """Args: stated: what the script and the policy file say of the check."""
    values, where = {"remedy": "", **stated}, f"{path}: gates.{gate_id}.{stated['id']}"
    values["slices"] = tuple(values.get("slices", ("",)))
    values["voids"] = tuple(values.get("voids", ()))
    values["severity_when"] = tuple(sorted(values.get("severity_when", {}).items()))
    _known_condition(values.get("requires"), f"{script}: {values['id']}")
    for condition, _ in values["severity_when"]:
        _known_condition(condition, where)
    if "threshold" not in values and "compared_with" not in values:
        raise UserError("a check without a bound", where=where, expected="threshold, or compared_with in its script")
    check = Check(**values)
    if check.optional and check.severity == "block":
        raise UserError(
            "a blocking check cannot be optional",
            where=f"{script}: {gate_id}.{check.id}",
            fix="take `optional` out: not measured is no pass",
        )
    if check.severity != "info" and not check.remedy:
        where, expected = f"{script}: {gate_id}.{check.id}", "what to do where it fails"
        raise UserError("a check without a remedy", where=where, expected=expected)
    threshold, warning = check.threshold, check.warn_threshold
    if threshold is not None and warning is not None and not lower_bound(check.rule, threshold, warning):
        raise UserError(
            "a warning that never comes before its block",
            where=where,
            found=f"warn_threshold {warning}, threshold {threshold}",
            expected="a warn_threshold stricter than the threshold",
        )
    return check


def _known_condition(name: str | None, where: str) -> None:
    if name is not None and name not in CONDITIONS:
        raise UserError("unknown condition", where=where, found=name, fix=nearest(name, CONDITIONS))


def _override(gates: Mapping[str, Gate], profile: Mapping[str, Any]) -> tuple[dict[str, Gate], tuple[Override, ...]]:
    changed, overrides = dict(gates), []
    seen: dict[Any, Any] = {}
    for number, entry in enumerate(profile.get("gates", ())):
        where = f"profile {profile['name']}: gates[{number}]"
        gate, check = _named(changed, entry, where)
        if (gate.id, check.id) in seen:
            fix = f"it is in gates[{seen[gate.id, check.id]}] already; make one entry of both"
            raise UserError("a check is stated twice", where=where, found=f"{gate.id}.{check.id}", fix=fix)
        seen[gate.id, check.id] = number
        check_reason(entry["reason"], f"{where}.reason")
        changes: dict[str, Any] = {key: entry[key] for key in OVERRIDABLE if key in entry}
        overrides += [
            Override(gate.id, check.id, key, getattr(check, key), value, entry["reason"])
            for key, value in changes.items()
            if getattr(check, key) != value
        ]
        # A severity that the profile states holds as stated: a condition may not soften or harden it again.
        if "severity" in changes:
            changes["severity_when"] = ()
        new = replace(check, **changes)
        changed[gate.id] = replace(gate, checks=tuple(new if one is check else one for one in gate.checks))
    return changed, tuple(overrides)


def _named(gates: Mapping[str, Gate], entry: Mapping[str, Any], where: str) -> tuple[Gate, Check]:
    """The gate and the check that an entry of a profile's ``gates:`` names."""
    gate = gates.get(entry["gate"])
    if gate is None:
        raise UserError("no such gate", where=where, found=entry["gate"], fix=nearest(entry["gate"], gates))
    check = gate.check(entry["check"])
    if check is None:
        fix = nearest(entry["check"], [one.id for one in gate.checks])
        raise UserError(f"gate {gate.id} has no such check", where=where, found=entry["check"], fix=fix)
    return gate, check


def _softenings(
    gates: Mapping[str, Gate],
    overrides: tuple[Override, ...],
    scripts: Mapping[str, Script],
    profile: Mapping[str, Any],
    holds: frozenset[str],
    absent: Mapping[str, str],
    file: str,
) -> Iterator[Softening]:
    told = {(one.gate, one.check, one.key): one.reason for one in overrides}
    files = {gate_id: f"gates/{script.path.name}" for gate_id, script in scripts.items()}
    yield from softened_checks(default_gates(), gates, holds if profile else frozenset(), absent, told, files, file)
    yield from softened_profile(profile, file) if profile else ()
