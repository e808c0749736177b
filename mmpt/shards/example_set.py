"""Reading examples: a caption's text ids joined to the payload of its shard record, in the task's format.

Of an example, 20 bytes stay in memory: its record, its length and where its text begins. Text ids are read from the
mapped file as they are asked for.

An example file holds no payload, only which records each task keeps and with which text ids; sequences are built
on demand, so that a swapped or empty prompt is one argument away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.shards.lines import Picked
from mmpt.shards.shard_set import ShardSet
from mmpt.store.errors import UserError
from mmpt.store.tasks import EMIT_TASKS, MODALITY_OF, TASKS
from mmpt.store.tensors import map_tensors, read_meta
from mmpt.tokens.formats import build
from mmpt.tokens.space import TokenSpace

_PIECE = 1 << 20  # text ids read at once for the digest of all of them


@dataclass(frozen=True)
class TaskExample:
    """One sequence with where it comes from.

    input_ids, labels: int32 [L]; slots: int8 [L] (see tokens.formats.Example).
    text_ids: int32, the caption as used (a prompt may have been shortened).
    payload_ids: int32, image or audio ids.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    slots: np.ndarray
    id: str
    group: str
    text_ids: np.ndarray
    payload_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


class ExampleSet:
    """All examples of one task and split.

    Args:
        tensors: a handle on an example file, as `map_tensors` gives it.
    """

    def __init__(self, shards: ShardSet, space: TokenSpace, task: str, tensors: Any):
        self.shards, self.space, self.task = shards, space, task
        self.lengths: np.ndarray = tensors.get_tensor("lengths")
        self.rows: np.ndarray = tensors.get_tensor("records")
        self._offsets: np.ndarray = tensors.get_tensor("text_offsets")
        self._text = tensors.get_slice("text_ids")

    @classmethod
    def open(cls, examples: Path, shards: Path, space: TokenSpace, task: str, split: str) -> ExampleSet:
        """Open ``examples/<task>-<split>.safetensors`` over its shards.

        Raises:
            UserError: missing file, or examples or shards of another token space.
        """
        if task not in TASKS:
            raise UserError("unknown task", found=repr(task), expected=", ".join(TASKS))
        path = Path(examples) / f"{task}-{split}.safetensors"
        found = read_meta(path)["token_space"]
        if found != space.digest:
            raise UserError(
                "these examples were made with another token space",
                where=path,
                found=found,
                expected=space.digest,
                fix="rebuild the examples",
            )
        return cls(ShardSet.open(shards, MODALITY_OF[task], split, space), space, task, map_tensors(path))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> TaskExample:
        return self.build(index)

    def build(
        self,
        index: int,
        text_ids: Sequence[int] | np.ndarray | None = None,
        payload_ids: np.ndarray | None = None,
    ) -> TaskExample:
        """Example ``index``, with other text ids (``[]``: the empty prompt) or another payload if given."""
        text = self.text_ids(index) if text_ids is None else np.asarray(text_ids, np.int32)
        payload = self.payload_ids(index) if payload_ids is None else np.asarray(payload_ids, np.int32)
        example, record = build(self.space, self.task, text, payload), self.record(index)
        return TaskExample(
            example.input_ids, example.labels, example.slots, record["id"], record["group"], text, payload
        )

    def draw(self, index: int, empty_prompt: bool = False) -> TaskExample:
        """What the loader asks for."""
        return self.build(index, text_ids=[] if empty_prompt else None)

    def text_ids(self, index: int) -> np.ndarray:
        """int32: the caption's ids as used."""
        index = range(len(self))[index]
        return self._text[int(self._offsets[index]) : int(self._offsets[index + 1])]

    @property
    def text_lengths(self) -> np.ndarray:
        """int64 [len]: text ids of each example."""
        return np.diff(self._offsets)

    def payload_ids(self, index: int) -> np.ndarray:
        """int32: the image's or sound's ids."""
        return self.shards.ids(int(self.rows[index]))

    def record(self, index: int) -> dict:
        """The shard record behind example ``index``."""
        return self.shards.record(int(self.rows[index]))

    @property
    def records(self) -> Picked:
        """The shard records behind the examples, in their order, read when they are asked for."""
        return Picked(self.shards.records, self.rows)

    @property
    def has_prompt(self) -> bool:
        """Can the prompt be dropped: is text the condition, not the target?"""
        return self.task in EMIT_TASKS

    @cached_property
    def identity(self) -> str:
        """SHA-256 over records, texts and shards: what a resumed run compares."""
        digest = hashlib.sha256(self.rows.tobytes() + b"\0")
        total = int(self._offsets[-1])
        for start in range(0, total, _PIECE):
            digest.update(self._text[start : min(start + _PIECE, total)].tobytes())
        digest.update(b"\0" + self._offsets.tobytes() + b"\0" + self.shards.identity.encode())
        return digest.hexdigest()
