"""Verdicts over time: gates/history.jsonl, one line a change, appended and never rewritten. Times live here
only.

Each line carries a digest of itself and that of the line before it, so that a line that was edited, taken out
or put in is found. Lines lost at the end are found by INDEX.sha256 (mmpt.store.index).
"""

from __future__ import annotations

import datetime
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mmpt.store.atomic import atomic_write
from mmpt.store.canonical import canonical_json, digest_json
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
    path = history_path(root)
    data = path.read_bytes() if path.is_file() else b""
    rows = read_history(root)
    last: dict[str, Any] = next((one for one in reversed(rows) if one.get("gate") == row["gate"]), {})
    told = all(last.get(key) == row[key] for key in ("from", "to", "verdict"))
    if told and data.endswith(b"\n"):
        return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = {**row, "time": now, "previous": rows[-1].get("digest", "") if rows else ""}
    gap = b"" if data.endswith(b"\n") or not data else b"\n"
    atomic_write(path, data + gap + canonical_json({**line, "digest": digest_json(line)}) + b"\n")


def read_history(root: Path) -> list[dict[str, Any]]:
    """All changes, oldest first; what is no line of it is left out, and named by ``check_history``."""
    path = history_path(root)
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def check_history(root: Path) -> list[str]:
    """What is wrong with the chain of lines, by line number; nothing where there is no history."""
    path = history_path(root)
    if not path.exists():
        return []
    wrong: list[str] = []
    previous: str | None = ""
    lines = path.read_bytes().split(b"\n")
    if lines.pop():
        wrong.append("its last line is cut off")
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            body = {key: value for key, value in row.items() if key != "digest"}
            whole = row["digest"] == digest_json(body) and canonical_json(row) == line
        except (ValueError, KeyError, AttributeError, TypeError):
            whole = False
        if not whole:
            wrong.append(f"line {number} was edited")
        elif previous is not None and row["previous"] != previous:
            wrong.append(f"a line before line {number} was taken out or put in")
        previous = row["digest"] if whole else None
    return wrong
