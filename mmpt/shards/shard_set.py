"""Reading shards: ids memory-mapped from safetensors, records from the JSONL beside them (lines.py).

Of a record that nobody looks at, two offsets stay in memory, 16 bytes; its tokens and its sidecar stay on the disk.

audio-train-00000.safetensors  ids int32 [tokens], offsets int64 [n + 1]; header: token space, codec, n
audio-train-00000.jsonl        one record a line (schema shard_record), in the same order
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mmpt.shards.lines import Lines
from mmpt.store.canonical import digest_json
from mmpt.store.errors import UserError
from mmpt.store.tensors import read_meta
from mmpt.tokens.space import TokenSpace


def shard_name(modality: str, split: str, index: int) -> str:
    """File stem of a shard."""
    return f"{modality}-{split}-{index:05d}"


class ShardSet:
    """All shards of one modality and split, as one sequence of records, read when asked for."""

    def __init__(self, files: list[Path], modality: str, split: str):
        self.files, self.modality, self.split = files, modality, split
        self.headers = [read_meta(path) for path in files]
        self._ends = np.cumsum([header["n"] for header in self.headers]).tolist()
        self._open: dict[int, tuple[Any, np.ndarray]] = {}

    @classmethod
    def open(cls, shards: Path, modality: str, split: str, space: TokenSpace | None = None) -> ShardSet:
        """Open a shards folder; a modality or split without records gives an empty set.

        Args:
            space: the run's token space, which every shard must then carry.

        Raises:
            UserError: a shard of another token space, or without a readable header.
        """
        opened = cls(sorted(Path(shards).glob(f"{modality}-{split}-*.safetensors")), modality, split)
        if space is not None:
            for path, header in zip(opened.files, opened.headers, strict=True):
                if header["token_space"] != space.digest:
                    raise UserError(
                        "this shard was written with another token space",
                        where=path,
                        found=header["token_space"],
                        expected=space.digest,
                        fix="rebuild the shards, or use the token space they belong to",
                    )
        return opened

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def ids(self, index: int) -> np.ndarray:
        """int32 [n]: the global ids of one record, audio frame by frame."""
        shard, row = self._locate(index)
        ids, offsets = self._shard(shard)
        return ids[int(offsets[row]) : int(offsets[row + 1])]

    def record(self, index: int) -> dict[str, Any]:
        """The sidecar of one record (schema shard_record)."""
        return self.records[index]

    @cached_property
    def records(self) -> Lines:
        """All sidecars in order: a sequence that reads a record when it is asked for.

        Raises:
            UserError: a sidecar with another number of lines than its shard has records.
        """
        lines = Lines.open([path.with_suffix(".jsonl") for path in self.files])
        for path, starts, header in zip(lines.files, lines.starts, self.headers, strict=True):
            if (found := len(starts) - 1) != header["n"]:
                raise UserError(
                    "the sidecar does not belong to its shard",
                    where=path,
                    found=f"{found} lines",
                    expected=f"{header['n']}, one per record",
                )
        return lines

    @cached_property
    def lengths(self) -> np.ndarray:
        """int32 [len]: tokens of each record."""
        parts = [np.diff(self._shard(shard)[1]) for shard in range(len(self.files))]
        return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int32)

    def ids_by_shard(self) -> Iterator[np.ndarray]:
        """int32 [tokens of the shard], shard by shard, to read all ids without holding them."""
        for shard in range(len(self.files)):
            yield self._shard(shard)[0][:]

    @cached_property
    def identity(self) -> str:
        """SHA-256 over the shards' content digests: what a resumed run compares."""
        return digest_json([header["content"] for header in self.headers])

    def _locate(self, index: int) -> tuple[int, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def _shard(self, shard: int) -> tuple[Any, np.ndarray]:
        """(sliceable view of the ids, offsets); a slice reads only its pages of the mapped file."""
        if shard not in self._open:
            try:
                handle = safe_open(self.files[shard], framework="numpy")
                self._open[shard] = handle.get_slice("ids"), handle.get_tensor("offsets")
            except SafetensorError as error:
                raise UserError("not a shard", where=self.files[shard], found=error) from None
        return self._open[shard]
