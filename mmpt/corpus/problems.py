"""Bad records: what is wrong with each, and the one error that lists them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmpt.store.errors import UserError
from mmpt.store.plain_text import plain_line

SHOWN = 20

KINDS = (
    "bad_line",
    "missing_column",
    "empty_caption",
    "duplicate_id",
    "outside",
    "missing",
    "empty",
    "unreadable",
    "ambiguous",
    "uncut",
)


@dataclass(frozen=True)
class Problem:
    """One bad record. `where` is "<source>/<file>:<line>"; `id` is None where the line didn't get as far."""

    kind: str
    source: str
    where: str
    id: str | None
    what: str
    found: str
    expected: str
    fix: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        named = f"record {self.id}: " if self.id else ""
        text = f"{self.where}: {named}{self.what}; found {self.found}; expected {self.expected}; {self.fix}"
        return plain_line(text)


def refuse(
    problems: Sequence[Problem],
    within: str = "the corpus",
    counted: str = "gate S1",
    total: int | None = None,
) -> None:
    """Raises one UserError that lists the first 20 problems and counts the rest; does nothing without any.

    What is wrong with many records in the same way is one line.

    counted: who counts them where they are left out instead. total: how many there are, where `problems` are only
    the first of them.
    """
    if not problems:
        return
    total = len(problems) if total is None else total
    alike: dict[tuple[str, ...], list[Problem]] = {}
    for one in problems:
        alike.setdefault((one.source, one.what, one.found, one.expected), []).append(one)
    shown = list(alike.values())[:SHOWN]
    lines = [f"{many[0]}" + (f" (and {len(many) - 1} alike)" if len(many) > 1 else "") for many in shown]
    if (rest := total - sum(map(len, shown))) > 0:
        lines.append(f"and {rest} more")
    noun = "bad record" if total == 1 else "bad records"
    raise UserError(
        f"{total} {noun} in {within}:\n  " + "\n  ".join(lines) + "\n",
        fix=f"correct them, or set corpus.on_bad_record: skip to leave them out and have {counted} count them",
    )
