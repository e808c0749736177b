"""JSON Lines: one canonical object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmpt.store.atomic import atomic_write
from mmpt.store.canonical import canonical_json
from mmpt.store.errors import UserError


def iter_jsonl(path: Path | str) -> Iterator[dict[str, Any]]:
    """Yield the objects of ``path``; blank lines are skipped.

    Raises:
        UserError: missing file or a line that is not JSON, with its number.
    """
    try:
        stream = open(path, encoding="utf-8")
    except FileNotFoundError:
        raise UserError("no such file", where=path) from None
    with stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError("not JSON", where=f"{path}:{number}", found=error.msg) from None


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """All objects of ``path``."""
    return list(iter_jsonl(path))


def write_jsonl(path: Path | str, rows: Iterable[dict[str, Any]], *, durable: bool = True) -> None:
    """Write ``rows`` atomically, canonical JSON, one a line."""
    atomic_write(path, b"".join(canonical_json(row) + b"\n" for row in rows), durable=durable)
