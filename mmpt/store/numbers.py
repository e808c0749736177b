"""A set of very many texts: a 16-byte key of each, and 8 to 16 bytes to find it.

A dict of a million ids takes 150 to 400 MB, with what it says of them; these take 25 to 110. Two different texts with
the same key are not expected among 10**15 of them (128 bits of BLAKE2b). Standard library only.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from hashlib import blake2b

SIZE = 16  # bytes of a key
ROOM = 1024  # slots of an empty table, a power of two


def key_of(text: str) -> bytes:
    """The text's SIZE bytes."""
    return blake2b(text.encode(), digest_size=SIZE).digest()


class Numbers:
    """A number for each different text: 0, 1, .. in the order in which they were added."""

    def __init__(self) -> None:
        self._keys = bytearray()
        # A text's number stands at its key's place, or after it where that is taken.
        self._slots = array("i", [-1]) * ROOM

    def __len__(self) -> int:
        """How many different texts there are."""
        return len(self._keys) // SIZE

    def add(self, text: str) -> int:
        """The text's number, a new one where it is seen for the first time."""
        key, number, slot = self._look(text)
        if number < 0:
            self._slots[slot] = number = len(self)
            self._keys += key
            if 2 * len(self) > len(self._slots):
                self._grow()
        return number

    def find(self, text: str) -> int:
        """The text's number, -1 where it was never added."""
        return self._look(text)[1]

    def _look(self, text: str) -> tuple[bytes, int, int]:
        """(key, number or -1, the slot where it stands or would)."""
        key, keys, slots = key_of(text), self._keys, self._slots
        last = len(slots) - 1
        slot = int.from_bytes(key[:8], sys.byteorder) & last
        while (number := slots[slot]) >= 0 and not keys.startswith(key, number * SIZE):
            slot = (slot + 1) & last
        return key, number, slot

    def _grow(self) -> None:
        slots = array("i", [-1]) * (2 * len(self._slots))
        last = len(slots) - 1
        with memoryview(self._keys) as keys, keys.cast("Q") as halves:
            for number in range(len(self)):
                slot = halves[2 * number] & last
                while slots[slot] >= 0:
                    slot = (slot + 1) & last
                slots[slot] = number
        self._slots = slots


class Labels:
    """Text -> one of a few words, such as a record's split. Of two pairs with one text the last counts.

    Raises:
        ValueError: more than 256 different words.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]):
        self._numbers, self._of = Numbers(), bytearray()
        codes: dict[str, int] = {}
        for text, word in pairs:
            code = codes.setdefault(word, len(codes))
            if (number := self._numbers.add(text)) == len(self._of):
                self._of.append(code)
            else:
                self._of[number] = code
        self._words = list(codes)

    def __len__(self) -> int:
        """How many texts have one."""
        return len(self._numbers)

    def get(self, text: str) -> str | None:
        """The text's word, None where it has none."""
        number = self._numbers.find(text)
        return self._words[self._of[number]] if number >= 0 else None


class Firsts:
    """A note of where each different text was first seen; of each stay its key and the note's bytes."""

    def __init__(self) -> None:
        self._numbers, self._notes, self._ends = Numbers(), bytearray(), array("q", [0])

    def before(self, text: str, note: str) -> str | None:
        """The note of the first time; None where this is the first, whose note is then kept."""
        number = self._numbers.add(text)
        if number < len(self._ends) - 1:
            return self._notes[self._ends[number] : self._ends[number + 1]].decode()
        self._notes += note.encode()
        self._ends.append(len(self._notes))
        return None
