"""Verdicts over time: gates/history.jsonl, a journal (mmpt.store.journal) with one line per change. Times are kept in
no other file.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mmpt.store.journal import append_line, is_cut_off, read_lines, wrong_lines
from mmpt.store.lock import in_turn


def history_path(root: Path) -> Path:
    """Where a profile's history lies."""
    return root / "gates" / "history.jsonl"


def one_writer(root: Path) -> AbstractContextManager[None]:
    """Keep others from writing verdicts and history: a gate's script may be started beside a run."""
    return in_turn(root / ".state" / "gates.lock")


def append_change(root: Path, row: dict[str, Any]) -> None:
    """Add one change, unless the gate's last line already tells it: a run may have been killed after it wrote
    this line and before it wrote the verdict.
    """
    rows = read_history(root)
    last: dict[str, Any] = next((one for one in reversed(rows) if one.get("gate") == row["gate"]), {})
    told = all(last.get(key) == row[key] for key in ("from", "to", "verdict"))
    if not told or is_cut_off(history_path(root)):
        append_line(history_path(root), row)


def read_history(root: Path) -> list[dict[str, Any]]:
    """All changes, oldest first; a line that is none is left out, and named by ``check_history``."""
    return read_lines(history_path(root))


def check_history(root: Path) -> list[str]:
    """What is wrong with the chain of lines, by line number; empty where there is no history."""
    return wrong_lines(history_path(root))
