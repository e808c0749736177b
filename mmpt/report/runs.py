"""Past runs of a profile: report/runs.jsonl, one line a run that differed from the one before, appended only.

A line holds the decision, the verdict of each gate, the value of each check and the digests the run rests on,
so that the trend of a number needs none of the artifacts it was measured on. Each line carries a digest of
itself and that of the line before it.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpt.store.canonical import canonical_json, digest_json
from mmpt.store.errors import UserError
from mmpt.store.schema import validate


def runs_path(root: Path) -> Path:
    """Where a profile's past runs lie."""
    return root / "report" / "runs.jsonl"


def read_runs(root: Path) -> list[dict[str, Any]]:
    """All runs on record, oldest first; a line that a crash tore or a hand edited is left out."""
    path = runs_path(root)
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
            validate(row, "report_run", where=path)
        except (json.JSONDecodeError, UserError):
            continue
        if row["digest"] == digest_json({key: value for key, value in row.items() if key != "digest"}):
            rows.append(row)
    return rows


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
    }
    line = canonical_json({**row, "digest": digest_json(row)}) + b"\n"
    path = runs_path(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (b"\n" if torn else b"") + line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True
