"""The head in int8, by which a draw from a wide range rules out almost every id before it multiplies in fp32.

An id that might win is multiplied in full, by the very products of an unscreened draw, so the ids are the same to the
bit; csrc/screen.h has the bound. A screen belongs to the head it was made from: a changed weight needs another.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Screen:
    """codes uint8 [ids, depth] (interleaved), scale and bound fp32 [ids]; ids, depth: the head's, padded.

    Memory: a quarter of an fp32 head, half of a bf16 one.
    """

    codes: Tensor
    scale: Tensor
    bound: Tensor
