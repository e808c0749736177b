"""Texts as 16-byte keys in one array: equal origins of a million records are found in 16 MB instead of 150.

The key is that of `mmpt.store.numbers`.
"""

from __future__ import annotations

import numpy as np

from mmpt.store.numbers import SIZE, key_of


class Keys:
    """The keys of texts, in the order in which they were added."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, text: str) -> None:
        """Remember one more text."""
        self._data += key_of(text)

    def __len__(self) -> int:
        return len(self._data) // SIZE

    def groups(self) -> tuple[np.ndarray, int]:
        """(int32 [len]: a number for each text, equal where the texts are; how many numbers there are)."""
        keys = np.frombuffer(self._data, np.uint64).reshape(-1, 2)
        order = np.lexsort((keys[:, 1], keys[:, 0])).astype(np.int32)
        starts = np.zeros(len(keys), bool)
        starts[:1] = True
        for half in range(2):  # one half at a time: a copy of all keys in order would be the largest thing here
            ordered = keys[order, half]
            starts[1:] |= ordered[1:] != ordered[:-1]
        numbers = np.empty(len(keys), np.int32)
        numbers[order] = np.cumsum(starts, dtype=np.int32) - 1
        return numbers, int(starts.sum())
