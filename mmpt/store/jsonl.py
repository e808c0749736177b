"""JSON Lines: one canonical JSON object per line, read and written line by line in constant memory."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpt.store.atomic import atomic_stream
from mmpt.store.canonical import canonical_json
from mmpt.store.errors import UserError

PIECE = 1 << 20  # bytes read at once where lines are only looked for


def iter_jsonl(path: Path | str) -> Iterator[dict[str, Any]]:
    """Yield the objects of ``path``; blank lines are skipped.

    Raises:
        UserError: the file is missing, or a line is not JSON; names the line.
    """
    try:
        stream = open(path, encoding="utf-8")  # noqa: SIM115 -- only the error of opening it is translated
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


@dataclass(frozen=True)
class JsonLines:
    """The objects of a file as an iterable: each iteration reads the file again, so none is held in memory."""

    path: Path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter_jsonl(self.path)


def count_lines(path: Path | str) -> int:
    """Number of newlines in ``path``: of records, in a file that this module wrote. Raises UserError without a file."""
    try:
        with open(path, "rb") as stream:
            return sum(piece.count(b"\n") for piece in iter(lambda: stream.read(PIECE), b""))
    except FileNotFoundError:
        raise UserError("no such file", where=path) from None


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """All objects of ``path``. Raises as ``iter_jsonl`` does."""
    return list(iter_jsonl(path))


@contextlib.contextmanager
def jsonl_writer(path: Path | str, *, durable: bool = True) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that adds a row to ``path``. The file appears when the block ends, and not at all if the block raises.

    Args:
        durable: wait until the bytes are on the disk.
    """
    with atomic_stream(path, durable=durable) as stream:

        def write(row: Mapping[str, Any]) -> None:
            stream.write(canonical_json(row) + b"\n")

        yield write


def write_jsonl(path: Path | str, rows: Iterable[Mapping[str, Any]], *, durable: bool = True) -> None:
    """Replace ``path`` by ``rows`` in one step. ``rows`` may be a generator that reads the old ``path``."""
    with jsonl_writer(path, durable=durable) as write:
        for row in rows:
            write(row)
