"""Softenings: everything that makes a decision weaker than the defaults, in one list.

A softened GO says so wherever it is shown, and ``--strict`` refuses it. What can be weaker: a check (by its gate
script, by policy.yaml, or by the profile's ``gates:``), and the profile itself, where its other settings leave a gate
less to judge. What makes a check stricter is no softening.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmpt.gating.checks import OF_POLICY, RISING, Check, Gate
from mmpt.gating.conditions import LEAST_DROPOUT, trained_tasks, untold_tasks
from mmpt.store.tasks import TASKS

RANK = {"block": 2, "warn": 1, "info": 0}
LEAST_GOLDEN = 64  # items for each task, DESIGN section 7
LEAST_DRAWS = 1000  # of a bootstrap: a 95 % interval has 25 draws beyond each end
EARLIEST, LATEST = 0.1, 2.0  # times a whole clip: between them at least, the model may choose a sound's end


@dataclass(frozen=True)
class Softening:
    """One way in which a decision is weaker than the defaults.

    Args:
        what: GATE.check and the field, or the profile key: "A3.mask.severity", "golden.per_task".
        where: the file that says so, as the user knows it.
        default: what the code asks; value: what holds instead. As text.
        reason: the profile's own, or what the setting does.
    """

    what: str
    where: str
    default: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what}: {self.default} -> {self.value} by {self.where} ({self.reason})"

    def to_json(self) -> dict[str, str]:
        """As decision.schema.json describes it."""
        return {"what": self.what, "where": self.where, "from": self.default, "to": self.value, "reason": self.reason}


def softened_checks(
    defaults: Mapping[str, Gate],
    gates: Mapping[str, Gate],
    holds: frozenset[str],
    absent: Mapping[str, str],
    told: Mapping[tuple[str, str, str], str],
    files: Mapping[str, str],
    profile: str,
) -> Iterator[Softening]:
    """What is weaker in the gates than in the defaults.

    Args:
        holds: conditions of the profile that hold.
        absent: slices that the profile has none of; a check of such slices alone has nothing to lose.
        told: (gate, check, field) that the profile set -> its reason.
        files: gate -> name of its script.
        profile: name of the profile's file.
    """
    for gate_id, default in defaults.items():
        gate = gates[gate_id]
        script = files.get(gate_id, "gates/")
        if gate.requires not in (None, default.requires):
            old, new = _text(default.requires), _text(gate.requires)
            yield Softening(f"{gate_id}.requires", script, old, new, _edited(script))
        for check in default.checks:
            mine = gate.check(check.id)
            for key in () if mine is None else weaker_fields(mine, check):
                reason = told.get((gate_id, check.id, key))
                where = profile if reason else "gates/policy.yaml" if key in OF_POLICY else script
                old, new = _text(getattr(check, key)), _text(getattr(mine, key))
                yield Softening(f"{gate_id}.{check.id}.{key}", where, old, new, reason or _edited(where))
            if mine is not None and "no_prompt_dropout" in holds and not set(check.slices) <= set(absent):
                yield from _without_dropout(gate_id, check, profile)


def _without_dropout(gate_id: str, check: Check, profile: str) -> Iterator[Softening]:
    level = dict(check.severity_when).get("no_prompt_dropout")
    if level is not None:
        reason = f"mixture.prompt_dropout is under {LEAST_DROPOUT}: the model hardly saw an empty prompt"
        yield Softening(f"{gate_id}.{check.id}.severity", profile, check.severity, level, reason)


def weaker_fields(mine: Check, least: Check) -> Iterator[str]:
    """Fields in which ``mine`` asks less than ``least``; one that asks something else is no such check at all."""
    if RANK[mine.severity] < RANK[least.severity]:
        yield "severity"
    elif mine.severity != "info" and _milder(mine, least):
        yield "severity_when"
    if mine.on_fail != least.on_fail and mine.on_fail == "cannot_decide":
        yield "on_fail"
    if mine.requires not in (None, least.requires):
        yield "requires"
    if not set(least.slices) <= set(mine.slices):
        yield "slices"
    if not set(least.voids) <= set(mine.voids):
        yield "voids"
    if mine.optional and not least.optional:
        yield "optional"
    if mine.min_n < least.min_n:
        yield "min_n"
    for key in ("threshold", "factor", "margin", "warn_threshold"):
        if lower_bound(mine.rule, getattr(mine, key), getattr(least, key)):
            yield key


def _milder(mine: Check, least: Check) -> bool:
    """Whether a condition softens ``mine`` further than it does ``least``."""
    allowed = dict(least.severity_when)
    return any(
        RANK[level] < RANK[least.severity] and RANK[level] < RANK[allowed.get(name, least.severity)]
        for name, level in mine.severity_when
    )


def lower_bound(rule: str, mine: float | None, least: float | None) -> bool:
    """Whether a bound (or a part of one) asks less than another; none asks less than any."""
    if mine is None or least is None:
        return mine is None and least is not None
    if rule == "equal":
        return mine != least
    return mine < least if rule in RISING else mine > least


def softened_profile(profile: Mapping[str, Any], file: str) -> Iterator[Softening]:
    """Settings outside ``gates:`` that leave the gates less to judge."""
    for task in untold_tasks(profile):
        yield Softening(
            f"mixture.weights.{task}",
            file,
            "trained",
            "0",
            f"task {task} is not trained and the profile does not say so: tasks: [{', '.join(trained_tasks(profile))}]",
        )
    for key, least, reason in (
        ("golden.per_task", LEAST_GOLDEN, "the golden sets are smaller"),
        ("evaluate.bootstrap", LEAST_DRAWS, "intervals rest on fewer draws"),
    ):
        section, name = key.split(".")
        value = profile.get(section, {}).get(name)
        if value is not None and value < least:
            yield Softening(key, file, str(least), str(value), reason)
    if "t2a" in trained_tasks(profile):
        yield from _softened_ends(profile, file)


def _softened_ends(profile: Mapping[str, Any], file: str) -> Iterator[Softening]:
    """Bounds of a chosen length that do not let gate E1 see a sound which ends too early or late, and orders of codes
    in which no sound ends by itself.
    """
    clip = (profile.get("codecs", {}).get("audio") or {}).get("clip_seconds")
    order = (profile.get("codecs", {}).get("audio") or {}).get("order", "frame")
    if order != "frame":
        yield Softening("codecs.audio.order", file, "frame", order, "sounds get their length: gate E1 asks for no end")
    asked = profile.get("generate", {}).get("learned_end", {})
    for name, share, reason in (
        ("min_seconds", EARLIEST, "gate E1 cannot see earlier ends"),
        ("max_seconds", LATEST, "gate E1 takes later ends for ends"),
    ):
        if clip and asked.get(name, 0) > share * clip:
            yield Softening(f"generate.learned_end.{name}", file, f"{share * clip:g}", f"{asked[name]:g}", reason)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(": ".join(one) if isinstance(one, tuple) else str(one) for one in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _edited(where: str) -> str:
    return f"{where} was edited"


def headline(
    word: str, softenings: Iterable[Mapping[str, str]], tasks: Iterable[str] = TASKS, *, strict: bool = False
) -> str:
    """The decision in one line: "GO for a2t, i2t (softened: A3.mask by my/run.yaml: reason)".

    Args:
        word: GO, NO-GO or CANNOT-DECIDE.
        softenings: as JSON.
        tasks: those that the run trains; named where they are not all.
        strict: softenings are refused, and told as the reason.
    """
    trained = list(tasks)
    line = word if set(trained) == set(TASKS) else f"{word} for {', '.join(trained)}"
    if word != "GO" and not (strict and word == "NO-GO"):
        return line
    told: dict[tuple[str, str], list[str]] = {}
    for one in softenings:
        told.setdefault((one["where"], one["reason"]), []).append(_short(one["what"]))
    parts = [f"{', '.join(dict.fromkeys(names))} by {where}: {reason}" for (where, reason), names in told.items()]
    said = "strict, and softened" if strict else "softened"
    return f"{line} ({said}: {'; '.join(parts)})" if parts else line


def _short(what: str) -> str:
    """ "A3.mask" of "A3.mask.severity"; a profile key stays whole."""
    return ".".join(what.split(".")[:2]) if what[0].isupper() else what
