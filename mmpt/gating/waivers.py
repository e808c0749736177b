"""Waivers: a person excuses one failed check on one artifact until a date. Kept in gates/waivers.yaml, under git.

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
from mmpt.gating.floors import is_firm
from mmpt.gating.yaml_file import read_yaml
from mmpt.store.atomic import atomic_write
from mmpt.store.errors import UserError
from mmpt.store.schema import validate

MOST_DAYS = 90  # from the day it is given; a longer excuse is a change of the policy, which is reviewed
LEAST_REASON, LEAST_LETTERS = 8, 5  # characters; the first as in the schemas of waivers and baselines
HEADER = """\
# Failed checks that somebody answers for. Written by `doit waive`; bound to one subject digest, void after
# `expires` (at most 90 days ahead) and on a worse value. Gates with a floor (mmpt/gating/floors.py) cannot be
# waived.
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


def load_waivers(path: Path, today: datetime.date) -> tuple[Waiver, ...]:
    """Read the waivers; a missing file has none.

    Raises:
        UserError: schema violations, a date that is none or too far, a reason without words, or a waiver for a gate
            with a floor.
    """
    if not path.exists():
        return ()
    body = read_yaml(path)
    validate(body, "waivers", where=path)
    waivers = tuple(Waiver(**entry) for entry in body["waivers"])
    for number, waiver in enumerate(waivers):
        _check_waiver(waiver, f"{path}: waivers[{number}]", today)
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
    today: datetime.date,
) -> list[Waiver]:
    """Append one waiver for each failed check and return them.

    Args:
        path: waivers.yaml.
        failed: failed checks of the verdict: {"id", "slice", "value"}.
        gate, subject: of the verdict.
        expires: last day on which it holds, YYYY-MM-DD; at most ``MOST_DAYS`` after ``today``.

    Raises:
        UserError: nothing failed, no such day or one too far, a reason without words, a gate with a floor.
    """
    if not failed:
        raise UserError("nothing to waive", where=gate, found="no failed check", fix="see `doit gates`")
    added = [Waiver(gate, one["id"], one["slice"], subject, one["value"], reason, owner, expires) for one in failed]
    for waiver in added:
        _check_waiver(waiver, f"waiver for {gate}", today)
    body = {"version": 1, "waivers": [asdict(one) for one in (*load_waivers(path, today), *added)]}
    validate(body, "waivers", where=path)
    text = HEADER + yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=120)
    atomic_write(path, text.encode())
    return added


def check_reason(reason: str, where: str) -> None:
    """Refuse a reason that says nothing.

    Raises:
        UserError: fewer than ``LEAST_LETTERS`` letters.
    """
    if len(reason.strip()) < LEAST_REASON or sum(map(str.isalpha, reason)) < LEAST_LETTERS:
        expected = f"a sentence of at least {LEAST_REASON} characters that others can judge, in words"
        raise UserError("not a reason", where=where, found=repr(reason), expected=expected)


def _check_waiver(waiver: Waiver, where: str, today: datetime.date) -> None:
    if is_firm(waiver.gate, waiver.check):
        raise UserError("a gate with a floor cannot be waived", where=where, found=f"{waiver.gate}.{waiver.check}")
    try:
        last = datetime.date.fromisoformat(waiver.expires)
    except ValueError:
        raise UserError("no such day", where=f"{where}.expires", found=waiver.expires, expected="YYYY-MM-DD") from None
    most = today + datetime.timedelta(days=MOST_DAYS)
    if last > most:
        raise UserError(
            "a waiver that does not end soon",
            where=f"{where}.expires",
            found=waiver.expires,
            expected=f"{most} or earlier, {MOST_DAYS} days from now",
        )
    check_reason(waiver.reason, f"{where}.reason")
