"""JSON Lines: one canonical object per line, read and written line by line, so that memory stays constant."""

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
        UserError: missing file or a line that is not JSON, with its number.
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
    """The objects of a file, read again each time they are gone over: for who needs them twice, but not at once."""

    path: Path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter_jsonl(self.path)


def count_lines(path: Path | str) -> int:
    """Newlines in ``path``: how many records it has, as we write them. Raises UserError where there is no file."""
    try:
        with open(path, "rb") as stream:
            return sum(piece.count(b"\n") for piece in iter(lambda: stream.read(PIECE), b""))
    except FileNotFoundError:
        raise UserError("no such file", where=path) from None


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """All objects of ``path``."""
    return list(iter_jsonl(path))


@contextlib.contextmanager
def jsonl_writer(path: Path | str, *, durable: bool = True) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that adds a row to ``path``. The file appears when the block ends, and not at all if it raised."""
    with atomic_stream(path, durable=durable) as stream:

        def write(row: Mapping[str, Any]) -> None:
            stream.write(canonical_json(row) + b"\n")

        yield write


def write_jsonl(path: Path | str, rows: Iterable[Mapping[str, Any]], *, durable: bool = True) -> None:
    """Write ``rows`` atomically, canonical JSON, one a line. They may read ``path`` as it was."""
    with jsonl_writer(path, durable=durable) as write:
        for row in rows:
            write(row)
