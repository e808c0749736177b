"""What to do next: the remedies of all that stands in the way of GO, causes before consequences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmpt.gating.lineage import NOT_YET
from mmpt.gating.text import bound_text, check_name, compared, number

AGAIN = "run doit: it makes again what does not stand"
AFTER = "mend what is above, then run doit again"
LOGS = "run doit; where a stage broke, its log below artifacts/<profile>/logs says why"

Check = Mapping[str, Any]


def remedies(verdicts: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One entry a gate and remedy: {"gate", "verdict", "check", "problem", "remedy"}.

    Gates whose evidence does not stand come next, gates that only wait for a stage that has not run last, as
    one entry each: they are no news of their own.
    """
    bad = [one for one in verdicts if one["verdict"] in ("NO_GO", "CANNOT_DECIDE")]
    found = []
    for verdict in bad:
        checks = [one for one in verdict["checks"] if _stands_in_the_way(one)]
        for remedy, many in _grouped(checks, lambda one: one["remedy"]).items():
            found.append(_entry(verdict, ", ".join(map(check_name, many)), _problems(many), remedy))
    silent = [one for one in bad if not any(map(_stands_in_the_way, one["checks"]))]
    fallen = [one for one in silent if NOT_YET not in one["reason"]]
    if fallen:
        reasons = _grouped(fallen, lambda one: one["reason"]).items()
        said = "; ".join(f"{', '.join(one['gate'] for one in many)}: {reason}" for reason, many in reasons)
        found.append(_entry(fallen[0], "", f"evidence that does not stand. {said}", AGAIN))
    waiting = [one for one in silent if NOT_YET in one["reason"]]
    if waiting:
        names = ", ".join(f"{one['gate']} ({one['stage']})" for one in waiting)
        found.append(_entry(waiting[0], "", f"not measured yet: {names}", AFTER if found else LOGS))
    return found


def _stands_in_the_way(check: Check) -> bool:
    """A blocking check that fails or cannot decide, unless it only rests on another that is listed itself."""
    bad = check["severity"] == "block" and check["status"] in ("fail", "cannot_decide")
    return bad and not check["note"].startswith("rests on check")


def _entry(verdict: Mapping[str, Any], check: str, problem: str, remedy: str) -> dict[str, str]:
    head = {"gate": verdict["gate"], "verdict": verdict["verdict"]}
    return {**head, "check": check, "problem": problem, "remedy": remedy}


def _problems(checks: list[Check]) -> str:
    """What is wrong, said once, with each slice's value beside its bound."""
    texts = []
    for what, many in _grouped(checks, lambda one: one["note"] or one["message"]).items():
        undecided = many[0]["status"] == "cannot_decide"
        named = [check_name(one) if undecided else _measured(one) for one in many]
        named = [f"{len(many)} checks"] if undecided and len(many) > 4 else named
        texts.append(f"{what}: {', '.join(named)}")
    return "; ".join(texts)


def _measured(check: Check) -> str:
    """ "t2a 0.41 (bound >= 0.7)"."""
    part = f"{check['slice']} " if check["slice"] else ""
    return f"{part}{number(compared(check))} (bound {bound_text(check)})"


def _grouped(checks: Iterable[Check], key: Any) -> dict[str, list[Check]]:
    groups: dict[str, list[Check]] = {}
    for one in checks:
        groups.setdefault(key(one), []).append(one)
    return groups
