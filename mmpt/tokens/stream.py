"""The order in which the codes of a sound become ids, as data that shards, grammar, losses and export follow.

A sound is codes [rows, frames]; row k holds codes of codebook `rows[k]`. Three rows of codebooks 0, 1, 2, a letter for
each row and a number for each frame:

    frame      a0 b0 c0  a1 b1 c1  a2 b2 c2
    codebook   a0 a1 a2  b0 b1 b2  c0 c1 c2
    delay      a0  a1 b0  a2 b1 c0  b2 c1  c2      row k starts k frames later (Copet et al. 2023, section 2.2)

Every code stands there once and nothing else does, so a sound has rows * frames ids in each order. Rows of one codebook
share its ids: SNAC's seven rows are of codebooks 0 1 2 2 1 2 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mmpt.store.errors import UserError

SERIALIZATIONS = {
    "frame": "flatten_by_time_interleaved_codebooks",
    "codebook": "flatten_by_codebook",
    "delay": "flatten_delayed_codebooks",
}
"""Order -> its name in token_space.json, key audio_codec.serialization. The first is the upstream format's."""
_KEPT = 64


@dataclass(frozen=True)
class Stream:
    """The order of a sound's ids.

    rows: codebook of each row of codes; row k of K is codebook k unless the codec says otherwise.
    order: a key of SERIALIZATIONS.
    """

    rows: tuple[int, ...]
    order: str = "frame"

    @property
    def width(self) -> int:
        """Ids per frame."""
        return len(self.rows)

    @property
    def step(self) -> int:
        """Positions from a code to the next frame's code of its row, away from a delayed stream's ends."""
        return 1 if self.order == "codebook" else self.width

    @property
    def open_ended(self) -> bool:
        """Whether a sound may end after any frame, whatever its length was meant to be: only frame by frame. In another
        order the length decides what stands at a position.
        """
        return self.order == "frame"

    def frames(self, n: int) -> int:
        """Frames of `n` ids.

        Raises:
            UserError: `n` ids are no whole frames.
        """
        if n % self.width:
            raise UserError(
                "audio ids don't fill whole frames",
                found=f"{n} ids",
                expected=f"[frames * {self.width}], {self.width} ids per frame",
            )
        return n // self.width

    def places(self, frames: int) -> np.ndarray:
        """int64 [frames * width]: which code stands at each position, as row * frames + frame. Read-only."""
        return _places(self.width, self.order, int(frames))

    def rows_at(self, n: int) -> np.ndarray:
        """int64 [n]: the row whose code stands at each position of a payload of `n` ids.

        Raises:
            UserError: `n` ids are no whole frames, where the order needs to know how many.
        """
        if self.open_ended:
            return np.arange(n) % self.width
        frames = self.frames(n)
        return self.places(frames) // max(1, frames)

    def codebooks_at(self, n: int) -> np.ndarray:
        """int64 [n]: the codebook at each position of a payload of `n` ids. Raises as `rows_at` does."""
        return np.array(self.rows, np.int64)[self.rows_at(n)]

    def flat(self, codes: np.ndarray) -> np.ndarray:
        """Codes [width, frames] -> [frames * width] in this order."""
        return codes.reshape(-1)[self.places(codes.shape[1])]

    def unflat(self, ids: np.ndarray) -> np.ndarray:
        """[frames * width] -> [width, frames]; the inverse of `flat`. Raises as `frames` does."""
        frames = self.frames(len(ids))
        found = np.empty_like(ids)
        found[self.places(frames)] = ids
        return found.reshape(self.width, frames)


def stream_of(audio_codec: Mapping[str, Any] | None, n_codebooks: int, where: str = "audio_codec") -> Stream:
    """The order that a token space's description of its codec states, with this number of codebooks.

    Raises:
        UserError: an unknown serialization, or rows that name a codebook which is not there or leave one out.
    """
    about = audio_codec or {}
    named = about.get("serialization", SERIALIZATIONS["frame"])
    order = next((key for key, name in SERIALIZATIONS.items() if name == named), None)
    if order is None:
        raise UserError(
            "unknown serialization", where=where, found=repr(named), expected=" or ".join(SERIALIZATIONS.values())
        )
    rows = tuple(about.get("row_codebooks") or range(n_codebooks))
    if sorted(set(rows)) != list(range(n_codebooks)):
        raise UserError(
            "rows do not name each codebook",
            where=f"{where}.row_codebooks",
            found=str(list(rows)),
            expected=f"codebooks 0..{n_codebooks - 1}, each at least once",
        )
    return Stream(rows, order)


@lru_cache(_KEPT)
def _places(width: int, order: str, frames: int) -> np.ndarray:
    row, frame = (one.reshape(-1) for one in np.mgrid[:width, :frames])
    when = {"frame": frame, "codebook": row, "delay": frame + row}[order]
    found = np.lexsort((row if order != "codebook" else frame, when))
    found.flags.writeable = False
    return found
