"""Tokens of media that earlier shards hold, by the medium's content: adding a tenth of the records tokenises a tenth.

Only shards of the same codec, which cut their media in the same way, count; the build hands out those that the same
code wrote. Another token space moves the ids by where its segments start.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.shards.encode import FIELDS, Encoded, Encoder, Record
from mmpt.shards.shard_set import ShardSet
from mmpt.store.tensors import read_meta


class Earlier:
    """The media of one modality in earlier shards. Of each stay its SHA-256 and its place.

    Args:
        folders: of shards, those to be preferred first.
        encoder: what would encode a medium now.
    """

    def __init__(self, folders: Sequence[Path], encoder: Encoder):
        self._now, self._stream = np.array(encoder.starts, np.int64), encoder.stream
        self._sets: list[ShardSet] = []
        self._shifts: list[np.ndarray] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        for folder in folders:
            for path in sorted(folder.glob(f"{encoder.modality}-*-*.safetensors")):
                self._add(path, read_meta(path), encoder)

    def _add(self, path: Path, header: dict[str, Any], encoder: Encoder) -> None:
        same = header["codec"] == encoder.identity and header.get("cut") == encoder.cut
        same = same and header.get("order", "frame") == self._stream.order
        if not same or len(header["starts"]) != len(self._now):
            return
        shards = ShardSet([path], encoder.modality, header["split"])
        for row, record in enumerate(shards.records):
            self._places.setdefault(bytes.fromhex(record["media_sha256"]), (len(self._sets), row))
        self._sets.append(shards)
        self._shifts.append((self._now - np.array(header["starts"], np.int64)).astype(np.int32))

    def __len__(self) -> int:
        return len(self._places)

    def find(self, record: Record) -> Encoded | None:
        """The tokens of a record's medium, or None."""
        place = self._places.get(bytes.fromhex(record["media_sha256"]))
        if place is None:
            return None
        shard, row = place
        ids, known = self._sets[shard].ids(row), self._sets[shard].record(row)
        moved = ids + self._shifts[shard][self._stream.rows_at(len(ids))]
        return Encoded(moved, {key: known[key] for key in FIELDS})
