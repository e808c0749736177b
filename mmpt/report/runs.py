"""Past runs of a profile: report/runs.jsonl, one line a run that differed from the one before; it only grows.

A line holds the decision, the verdict of each gate, the value of each check and the digests the run rests on,
so that the trend of a number needs none of the artifacts it was measured on. Each line carries a digest of
itself and that of the line before it.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpt.store.atomic import atomic_write
from mmpt.store.canonical import canonical_json, digest_json
from mmpt.store.errors import UserError
from mmpt.store.schema import validate


def runs_path(root: Path) -> Path:
    """Where a profile's past runs lie."""
    return root / "report" / "runs.jsonl"


def read_runs(root: Path) -> list[dict[str, Any]]:
    """All runs on record, oldest first; a line that a crash tore or a hand edited is left out."""
    return [row for row in _rows(root) if row is not None]


def wrong_runs(root: Path) -> list[str]:
    """One text a line that is torn or edited, or whose predecessor is not the line before it."""
    wrong, before = [], ""
    for place, row in enumerate(_rows(root), start=1):
        if row is None:
            wrong.append(f"line {place} is not a run with its own digest")
        elif row["previous"] != before:
            wrong.append(f"line {place} does not follow the line before it")
        before = row["digest"] if row is not None else before
    return wrong


def _rows(root: Path) -> list[dict[str, Any] | None]:
    """The lines of the record; None for one that does not hold."""
    path = runs_path(root)
    content = path.read_bytes() if path.is_file() else b""
    return [_row(line, path) for line in content.removesuffix(b"\n").split(b"\n") if content]


def _row(line: bytes, path: Path) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        validate(row, "report_run", where=path)
    except (ValueError, UserError):  # no text, no JSON, no run
        return None
    own = digest_json({**row, "digest": None})
    return row if row["digest"] == own and canonical_json(row) == line else None


def record_run(root: Path, state: Mapping[str, Any]) -> bool:
    """Append ``state`` with the present time unless the last run on record is the same; True if it did."""
    past = read_runs(root)
    if past and past[-1]["state"] == state:
        return False
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    row = {
        "schema": "report_run/1",
        "time": now,
        "previous": past[-1]["digest"] if past else "",
        "state": state,
        "digest": None,
    }
    line = canonical_json({**row, "digest": digest_json(row)}) + b"\n"
    path = runs_path(root)
    before = path.read_bytes() if path.is_file() else b""
    gap = b"" if before.endswith(b"\n") or not before else b"\n"
    atomic_write(path, before + gap + line)
    return True
