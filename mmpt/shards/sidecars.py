"""The records beside a set of shards: one sequence over their JSONL files, of which only the lines' places are held."""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.store.errors import UserError
from mmpt.store.jsonl import PIECE, iter_jsonl


@dataclass(frozen=True, eq=False)
class Sidecars(Sequence[dict[str, Any]]):
    """Records of several files, in order (schema shard_record).

    A look at one record reads its line alone (about 20 us); whoever wants all of them iterates, which reads file
    after file. Processes that were forked may read at the same time: no file position is shared.

    files: in order. starts: a file, int64 [lines + 1]: where each line begins. ends: records up to and with a file.
    """

    files: tuple[Path, ...]
    starts: tuple[np.ndarray, ...]
    ends: tuple[int, ...]

    @classmethod
    def open(cls, files: Sequence[Path], counts: Sequence[int]) -> Sidecars:
        """Find the lines.

        Raises:
            UserError: a file that is missing, or has another number of lines than its count.
        """
        starts = [_line_starts(path) for path in files]
        for path, found, wanted in zip(files, starts, counts, strict=True):
            if len(found) - 1 != wanted:
                raise UserError(
                    "the sidecar does not belong to its shard",
                    where=path,
                    found=f"{len(found) - 1} lines",
                    expected=f"{wanted}, one a record",
                )
        return cls(tuple(files), tuple(starts), tuple(np.cumsum(counts, dtype=np.int64).tolist()))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for path in self.files:
            yield from iter_jsonl(path)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        file = bisect_right(self.ends, index)
        row = index - (self.ends[file - 1] if file else 0)
        start, end = self.starts[file][row : row + 2].tolist()
        with open(self.files[file], "rb", buffering=0) as stream:
            return json.loads(os.pread(stream.fileno(), end - start, start))


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
