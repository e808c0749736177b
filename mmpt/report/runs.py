"""Past runs of a profile: report/runs.jsonl, a journal (mmpt.store.journal) with a line for each run that differed from
the one before.

A line holds the decision, the verdict of each gate, the value of each check and the digests the run rests on,
so that the trend of a number needs none of the artifacts it was measured on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpt.store.errors import UserError
from mmpt.store.journal import append_line, sound_lines, wrong_lines
from mmpt.store.schema import validate


def runs_path(root: Path) -> Path:
    """Where a profile's past runs lie."""
    return root / "report" / "runs.jsonl"


def read_runs(root: Path) -> list[dict[str, Any]]:
    """All runs on record, oldest first; a line that a crash cut off or a hand edited is left out."""
    return [row for row in sound_lines(runs_path(root)) if _is_run(row)]


def wrong_runs(root: Path) -> list[str]:
    """What is wrong with the record, one text per finding."""
    wrong = wrong_lines(runs_path(root))
    strange = sum(not _is_run(row) for row in sound_lines(runs_path(root)))
    return wrong + [f"{strange} of its lines are no runs"] * bool(strange)


def _is_run(row: Mapping[str, Any]) -> bool:
    try:
        validate(row, "report_run", where="report/runs.jsonl")
    except UserError:
        return False
    return True


def record_run(root: Path, state: Mapping[str, Any]) -> bool:
    """Append ``state`` with the present time unless the last run on record is the same; True if it did."""
    past = read_runs(root)
    if past and past[-1]["state"] == state:
        return False
    append_line(runs_path(root), {"schema": "report_run/2", "state": state})
    return True
