"""Accepted baselines: the values that rules with ``compared_with: baseline`` compare with.

Kept in gates/baselines.json, under git, written by `doit accept`. Each entry names what it was measured on
and carries a digest of itself, so that a number edited by hand is found. The file must be there, with no
entries if none was accepted: were a missing file an empty one, deleting it would pass every such rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmpt.gating.checks import Check, Gate
from mmpt.store.canonical import digest_json, read_json, write_json
from mmpt.store.errors import UserError
from mmpt.store.schema import validate

# profile -> gate -> metric -> slice -> value
Baselines = dict[str, dict[str, dict[str, dict[str, float]]]]
RESTORE = "restore it, e.g. `git checkout gates/baselines.json`, or accept anew with `doit accept`"


@dataclass(frozen=True)
class Accepted:
    """The baseline of one gate in one profile.

    Args:
        subject: digest of what the gate measured (``Verdict.subject_digest``); evidence: SHA-256 of the
            evidence file that the values come from.
        day: YYYY-MM-DD, on which it was accepted.
        values: metric -> slice -> {"value", "n"}.
    """

    profile: str
    gate: str
    subject: str
    evidence: str
    owner: str
    reason: str
    day: str
    values: Mapping[str, Mapping[str, Mapping[str, float]]]

    @property
    def digest(self) -> str:
        """SHA-256 of all the rest."""
        return digest_json(asdict(self))

    def numbers(self) -> dict[str, dict[str, float]]:
        """metric -> slice -> value."""
        return {metric: {part: one["value"] for part, one in slices.items()} for metric, slices in self.values.items()}


def baseline_checks(gate: Gate) -> list[Check]:
    """The checks of a gate that compare with a baseline."""
    return [check for check in gate.checks if check.compared_with == "baseline"]


def read_accepted(path: Path) -> list[Accepted]:
    """Every baseline on file.

    Raises:
        UserError: no such file, not JSON, not baselines, or an entry that is not what was accepted.
    """
    if not path.is_file():
        raise UserError("the accepted baselines are missing", where=path, found="no such file", fix=RESTORE)
    body = read_json(path)
    validate(body, "baselines", where=path)
    found = []
    for profile, gates in body["profiles"].items():
        for gate, entry in gates.items():
            kept = {key: value for key, value in entry.items() if key != "digest"}
            one = Accepted(profile, gate, **kept)
            if one.digest != entry["digest"]:
                raise UserError(
                    "a baseline was edited: it is not what was accepted",
                    where=f"{path}: profiles.{profile}.{gate}",
                    expected="the digest that it carries of itself",
                    fix=RESTORE,
                )
            found.append(one)
    return found


def load_baselines(path: Path) -> Baselines:
    """The accepted values alone. Raises as ``read_accepted`` does."""
    values: Baselines = {}
    for one in read_accepted(path):
        values.setdefault(one.profile, {})[one.gate] = one.numbers()
    return values


def baseline_values(gate: Gate, evidence: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """What ``evidence`` offers as a baseline of ``gate``: metric -> slice -> {"value", "n"}.

    Raises:
        UserError: no check of the gate compares with a baseline, or none of their metrics has a value.
    """
    names = {check.metric for check in baseline_checks(gate)}
    if not names:
        raise UserError("no check of this gate compares with a baseline", found=gate.id)
    values: dict[str, dict[str, dict[str, float]]] = {}
    for metric in evidence["metrics"]:
        if metric["name"] in names and metric["value"] is not None:
            entry = {"value": metric["value"], "n": metric["n"]}
            values.setdefault(metric["name"], {})[metric["slice"]] = entry
    if not values:
        wanted = ", ".join(sorted(names))
        raise UserError("its evidence holds none of the values to accept", where=gate.id, expected=wanted)
    return values


def accept(path: Path, accepted: Iterable[Accepted]) -> None:
    """Write baselines, all of them at once; each replaces that of its profile and gate.

    Raises:
        UserError: as ``read_accepted``; nothing is then written.
    """
    entries = {(one.profile, one.gate): one for one in [*read_accepted(path), *accepted]}
    profiles: dict[str, dict[str, Any]] = {}
    for (profile, gate), one in sorted(entries.items()):
        kept = {key: value for key, value in asdict(one).items() if key not in ("profile", "gate")}
        profiles.setdefault(profile, {})[gate] = {**kept, "digest": one.digest}
    body = {"version": 1, "profiles": profiles}
    validate(body, "baselines", where=path)
    write_json(path, body)
