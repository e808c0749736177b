"""Why a stage is not fresh: a closed set of reasons, each with its own text, and the plan that follows from them."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mmpt.build.declaration import Stage
from mmpt.build.fingerprint import Definition, define
from mmpt.build.project import Project
from mmpt.build.receipts import DATA, MANIFEST, RECEIPT, definition_of, read_receipt, subject_digest
from mmpt.build.turn import Turn
from mmpt.store.canonical import canonical_json
from mmpt.store.digests import Manifest, sha256_bytes
from mmpt.store.errors import Edited, UserError

Kind = Literal[
    "never built",
    "receipt",
    "manifest",
    "output",
    "slice",
    "input",
    "external",
    "code",
    "package",
    "tool",
    "runtime",
    "body",
    "decision",
]
# definition key -> kind of reason, in the order in which they are shown
PARTS: dict[str, Kind] = {
    "slice": "slice",
    "inputs": "input",
    "external": "external",
    "code": "code",
    "packages": "package",
    "tools": "tool",
    "runtime": "runtime",
    "granted": "decision",
}
EDITED_WHILE_RUNNING = "edited while the stage ran"


@dataclass(frozen=True)
class Reason:
    """One reason why a stage is stale.

    Args:
        kind: which of the closed set.
        name: the profile key, input stage, file, module or package concerned.
        old: what the receipt says; new: what is now, both in full. Empty where one side has nothing to say.
    """

    kind: Kind
    name: str = ""
    old: str = ""
    new: str = ""

    @property
    def tampered(self) -> bool:
        """Published files are not what was published: said loudly, and never trusted."""
        return self.kind in ("receipt", "manifest", "output")

    def __str__(self) -> str:
        if self.kind == "never built":
            return self.kind
        if self.kind in ("receipt", "manifest", "output"):
            return f"{self.name} {self.new}"
        if self.old == EDITED_WHILE_RUNNING:
            return f"{self.kind} {self.name}: {self.old}"
        label = {
            "slice": "profile key",
            "input": "input",
            "external": "media or weights",
            "body": "body",
            "decision": "what the decision rests on:",
        }.get(self.kind, self.kind)
        old, new = _shown(self.old, self.new)
        return f"{label} {self.name}: {old or '(none)'} -> {new or '(none)'}"


def reasons(project: Project, stage: Stage) -> list[Reason]:
    """Why ``stage`` must run, all of it; empty when it is fresh."""
    folder = project.root / stage.name
    if not folder.exists():
        return [Reason("never built")]
    try:
        receipt = read_receipt(folder / RECEIPT)
    except Edited as error:
        return [Reason("receipt", f"{stage.name}/{RECEIPT}", new=error.what)]
    except UserError as error:
        return [Reason("receipt", f"{stage.name}/{RECEIPT}", new=f"is damaged: {error.what}")]
    return _integrity(project, stage, subject_digest(receipt)) + differences(
        definition_of(receipt), define(project, stage)
    )


def _integrity(project: Project, stage: Stage, recorded: str) -> list[Reason]:
    """Published files against the manifest, and the manifest against the receipt."""
    folder = project.root / stage.name
    try:
        text = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        return [Reason("manifest", f"{stage.name}/{MANIFEST}", new="is missing")]
    if sha256_bytes(text) != recorded:
        return [
            Reason(
                "manifest",
                f"{stage.name}/{MANIFEST}",
                recorded,
                f"was edited: its receipt names {recorded[:12]}",
            )
        ]
    # Ten thousand files in 30 ms, without reading their manifest.
    if project.stat_cache.vouches(folder / DATA, recorded):
        return []
    manifest = Manifest.parse(text.decode(), folder / MANIFEST)
    return [
        Reason(
            "output",
            f"{stage.name}/{DATA}/{one.path}",
            one.expected,
            _change(one.kind, one.expected, one.found),
        )
        for one in manifest.verify(folder / DATA, project.stat_cache)
    ]


def _change(kind: str, expected: str, found: str) -> str:
    return {
        "edited": f"was edited: {expected[:12]} -> {found[:12]}",
        "missing": "is missing",
        "extra": "was not published by the stage",
    }[kind]


def differences(old: Definition, new: Definition) -> list[Reason]:
    """What changed between two definitions of one stage, as reasons."""
    found = [Reason("body", "", old["body"], new["body"])] if old["body"] != new["body"] else []
    for part, kind in PARTS.items():
        had, has = old.get(part, {}), new.get(part, {})
        for name in sorted(set(had) | set(has)):
            before, after = had.get(name), has.get(name)
            if before != after or (name in had) != (name in has):
                found += [Reason(kind, *change) for change in _keys(name, before, after)]
    return found


def _keys(name: str, before: Any, after: Any) -> list[tuple[str, str, str]]:
    """Mappings, and lists of one length, are followed down to what differs: (dotted key, old, new)."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            one
            for key in sorted(set(before) | set(after))
            if before.get(key) != after.get(key)
            for one in _keys(f"{name}.{key}", before.get(key), after.get(key))
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [one for at, (old, new) in pairs if old != new for one in _keys(f"{name}[{at}]", old, new)]
    return [(name, _text(before), _text(after))]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else canonical_json(value).decode()


def _shown(old: str, new: str, most: int = 60) -> tuple[str, str]:
    """Both as a line has room for: digests by their first digits, long values from where they differ."""
    if all(len(one) == 64 for one in (old, new) if one):
        return old[:12], new[:12]
    start = 0
    if max(len(old), len(new)) > most:
        start = max(0, len(os.path.commonprefix([old, new])) - 20)  # noqa: RUF071 -- by character is meant
    return _cut(old, start, most), _cut(new, start, most)


def _cut(text: str, start: int, most: int) -> str:
    if len(text) <= most:
        return text
    part = text[start : start + most - 6]
    return "..." * (start > 0) + part + "..." * (start + len(part) < len(text))


def told(found: Sequence[Reason], most: int = 3) -> str:
    """The first reasons in one line."""
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return "; ".join(map(str, found[:most])) + more or "asked for"


@dataclass(frozen=True)
class Planned:
    """What the next run would do with a stage.

    Args:
        state: "fresh"; "runs"; "may run" if the output of an input that runs changes.
        reasons: its own, for "runs"; inputs that run, for both.
    """

    stage: Stage
    state: Literal["fresh", "runs", "may run"]
    reasons: tuple[Reason, ...]
    waits_for: tuple[str, ...]


def plan(project: Project, fresh: Collection[str] = ()) -> list[Planned]:
    """Every stage in table order. An output that comes out unchanged leaves its users fresh, hence "may run".

    Args:
        fresh: stages that this process already found fresh, or built.
    """
    states: dict[str, Literal["fresh", "runs", "may run"]] = {}
    planned = []
    for stage in project.stages:
        own = () if stage.name in fresh else tuple(reasons(project, stage))
        upstream = tuple(name for name in stage.inputs if states[name] != "fresh")
        states[stage.name] = "runs" if own else "may run" if upstream else "fresh"
        planned.append(Planned(stage, states[stage.name], own, upstream))
    return planned


class Freshness:
    """doit's ``uptodate`` question for one stage; prints as its answer, which is what `doit info` shows."""

    def __init__(self, project: Project, stage: Stage, *, forced: bool, turn: Turn):
        self.project, self.stage, self.forced, self.turn = project, stage, forced, turn

    def __call__(self) -> bool:
        with self.turn:
            self.found = reasons(self.project, self.stage)
        return not self.found and not self.forced

    def __repr__(self) -> str:
        found = getattr(self, "found", None)
        return "not looked at" if found is None else "; ".join(map(str, found)) or "fresh"
