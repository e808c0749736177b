"""Waivers: a person answers for one failed check on one artifact, until a day. Kept in gates/waivers.yaml,
under git.

A waiver holds for the subject digest it was given for, up to and including its last day, and while the
value is no worse than the one it was given for. Gates with a floor have none.
"""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from mmpt.gating.checks import RISING
from mmpt.gating.floors import FLOORS
from mmpt.gating.yaml_file import read_yaml
from mmpt.store.atomic import atomic_write
from mmpt.store.errors import UserError
from mmpt.store.schema import validate

HEADER = """\
# Failed checks that somebody answers for. Written by `doit waive`; bound to one subject digest, void after
# `expires` and on a worse value. Gates with a floor (K1 S2 S3 A1 A2 A4 B3 C1 C4 R1) cannot be waived.
# `--strict` ignores this file.
"""


@dataclass(frozen=True)
class Waiver:
    """One waiver; ``value`` is what the check measured when it was given."""

    gate: str
    check: str
    slice: str
    subject: str
    value: float
    reason: str
    owner: str
    expires: str

    def covers(
        self, gate: str, check: str, part: str, subject: str, value: float, rule: str, today: datetime.date
    ) -> bool:
        """Whether it holds for this failure today."""
        if (self.gate, self.check, self.slice, self.subject) != (gate, check, part, subject):
            return False
        worse = value < self.value if rule in RISING else value > self.value
        return not worse and today <= datetime.date.fromisoformat(self.expires)


def load_waivers(path: Path) -> tuple[Waiver, ...]:
    """Read the waivers; a missing file has none.

    Raises:
        UserError: schema violations, a date that is none, or a waiver for a gate with a floor.
    """
    if not path.exists():
        return ()
    body = read_yaml(path)
    validate(body, "waivers", where=path)
    waivers = tuple(Waiver(**entry) for entry in body["waivers"])
    for number, waiver in enumerate(waivers):
        _check_waiver(waiver, f"{path}: waivers[{number}]")
    return waivers


def waive(
    path: Path,
    failed: list[dict[str, Any]],
    *,
    gate: str,
    subject: str,
    reason: str,
    owner: str,
    expires: str,
) -> list[Waiver]:
    """Append one waiver for each failed check and return them.

    Args:
        path: waivers.yaml.
        failed: failed checks of the verdict: {"id", "slice", "value"}.
        gate, subject: of the verdict.
        expires: last day on which it holds, YYYY-MM-DD.

    Raises:
        UserError: nothing failed, no such day, a gate with a floor.
    """
    if not failed:
        raise UserError("nothing to waive", where=gate, found="no failed check", fix="see `doit gates`")
    added = [
        Waiver(gate, one["id"], one["slice"], subject, one["value"], reason, owner, expires) for one in failed
    ]
    for waiver in added:
        _check_waiver(waiver, f"waiver for {gate}")
    body = {"version": 1, "waivers": [asdict(one) for one in (*load_waivers(path), *added)]}
    validate(body, "waivers", where=path)
    text = HEADER + yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=120)
    atomic_write(path, text.encode())
    return added


def _check_waiver(waiver: Waiver, where: str) -> None:
    if waiver.gate in FLOORS:
        raise UserError("a gate with a floor cannot be waived", where=where, found=waiver.gate)
    try:
        datetime.date.fromisoformat(waiver.expires)
    except ValueError:
        raise UserError(
            "no such day", where=f"{where}.expires", found=waiver.expires, expected="YYYY-MM-DD"
        ) from None
