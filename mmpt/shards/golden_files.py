"""Where a golden set lies: one file per task, named by its size."""

from __future__ import annotations

from pathlib import Path

from mmpt.store.errors import UserError


def golden_file(task: str, n: int | str) -> str:
    """The name of a golden set of n items."""
    return f"golden_{task}_{n}.jsonl"


def golden_path(folder: Path, task: str) -> Path | None:
    """The file of a task's golden set, whatever its size; None where there is none.

    Raises:
        UserError: several.
    """
    found = sorted(folder.glob(golden_file(task, "*")))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError("several golden sets of one task", where=folder, found=names, expected="one")
    return found[0] if found else None
