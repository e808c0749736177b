"""Verdicts over time: gates/history.jsonl, one line a change, appended and never rewritten. Times live here
only.
"""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

from mmpt.store.canonical import canonical_json, digest_json


def history_path(root: Path) -> Path:
    """Where a profile's history lies."""
    return root / "gates" / "history.jsonl"


def append_change(root: Path, row: dict[str, Any]) -> None:
    """Append one change in one write; each line names the digest of the line before it."""
    path = history_path(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = read_history(root)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = canonical_json({**row, "time": now, "previous": digest_json(rows[-1]) if rows else ""}) + b"\n"
    torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (b"\n" if torn else b"") + line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_history(root: Path) -> list[dict[str, Any]]:
    """All changes, oldest first; a line torn by a crash is left out."""
    path = history_path(root)
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
