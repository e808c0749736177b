"""Records of JSONL files as one sequence that holds only each line's offset, 8 bytes per record."""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.store.errors import UserError
from mmpt.store.jsonl import PIECE, iter_jsonl


@dataclass(frozen=True, eq=False)
class Lines(Sequence[dict[str, Any]]):
    """Records of several files, in order.

    A look at one record reads its line alone (about 20 us); iteration reads file after file. Forked processes may read
    at the same time: no file position is shared.

    files: in order. starts: a file, int64 [lines + 1]: where each line begins. ends: records up to and with a file.
    """

    files: tuple[Path, ...]
    starts: tuple[np.ndarray, ...]
    ends: tuple[int, ...]

    @classmethod
    def open(cls, files: Sequence[Path]) -> Lines:
        """Find the lines. Raises UserError for a file that is missing."""
        starts = tuple(_line_starts(path) for path in files)
        return cls(tuple(files), starts, tuple(np.cumsum([len(one) - 1 for one in starts]).tolist()))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for path in self.files:
            yield from iter_jsonl(path)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]  # no slices: `take` reads several
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return next(self.take([index % len(self)]))

    def take(self, rows: Iterable[int]) -> Iterator[dict[str, Any]]:
        """The records of these places, which are 0..len - 1, in the order given."""
        with ExitStack() as opened:
            file, descriptor = -1, -1
            for row in rows:
                if (needed := bisect_right(self.ends, row)) != file:
                    file = needed
                    opened.close()
                    descriptor = opened.enter_context(open(self.files[file], "rb", buffering=0)).fileno()
                at = row - (self.ends[file - 1] if file else 0)
                start, end = self.starts[file][at : at + 2].tolist()
                yield json.loads(os.pread(descriptor, end - start, start))


@dataclass(frozen=True, eq=False)
class Picked(Sequence[dict[str, Any]]):
    """Some of the records of a sequence, read when they are asked for; rows: int64 [n], 0..len(lines) - 1."""

    lines: Lines
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.lines.take(self.rows.tolist())

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]  # no slices, as Lines
        return self.lines[int(self.rows[index])]


def _line_starts(path: Path) -> np.ndarray:
    """int64 [lines + 1]: where each line of a file begins, and where the last one ends."""
    starts, size, last = [np.zeros(1, np.int64)], 0, b"\n"
    try:
        with open(path, "rb") as stream:
            while piece := stream.read(PIECE):
                starts.append(np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n")) + size + 1)
                size, last = size + len(piece), piece[-1:]
    except FileNotFoundError:
        raise UserError("no such file", where=path) from None
    if last != b"\n":
        starts.append(np.array([size]))
    return np.concatenate(starts)
