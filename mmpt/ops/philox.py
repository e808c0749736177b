"""Counter-based noise: Philox4x32-10 as a function of (seed, offset, id), on whole tensors.

A draw depends on nothing but its three keys: not on the batch, the thread or the device. Four neighbouring
ids share one block: the counter is (id // 4, offset low, offset high, 0), the key is the seed, and the word
is id % 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MUL_A, _MUL_B = 0xD2511F53, 0xCD9E8D57
_WEYL_A, _WEYL_B = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Four 32-bit words, int64 tensors in 0..2**32-1, of 32-bit counters and keys held in int64 (broadcast).

    int64 products wrap modulo 2**64, which keeps every bit that the 32 x 32 -> 64 product needs.
    """
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        left, right = a * _MUL_A, c * _MUL_B
        a, b, c, d = (
            ((right >> 32) & _MASK) ^ b ^ k0,
            right & _MASK,
            ((left >> 32) & _MASK) ^ d ^ k1,
            left & _MASK,
        )
        k0, k1 = (k0 + _WEYL_A) & _MASK, (k1 + _WEYL_B) & _MASK
    return a, b, c, d


def words(seed: Tensor, offset: Tensor, first_id: int, count: int) -> Tensor:
    """Words, int64 [B, count], of ids first_id .. first_id+count-1 for each row; seed, offset [B]."""
    block = torch.arange(first_id // 4, (first_id + count - 1) // 4 + 1, device=seed.device)[None, :]
    quads = _quads(seed[:, None], offset[:, None], block)
    skip = first_id % 4
    return quads.reshape(len(seed), -1)[:, skip : skip + count]


def word_at(seed: Tensor, offset: Tensor, ids: Tensor) -> Tensor:
    """Word of one id a row: [B] from seed, offset, ids [B]."""
    return _quads(seed, offset, ids // 4).gather(-1, (ids % 4)[..., None])[..., 0]


def _quads(seed: Tensor, offset: Tensor, block: Tensor) -> Tensor:
    """The four words of each block, [..., 4]."""
    seed, offset = seed.long(), offset.long()
    counter = (block & _MASK, offset & _MASK, (offset >> 32) & _MASK, torch.zeros_like(block))
    return torch.stack(torch.broadcast_tensors(*philox4x32(counter, (seed & _MASK, (seed >> 32) & _MASK))), -1)


def gumbel(word: Tensor) -> Tensor:
    """Standard Gumbel noise, fp64, of 32-bit words: u = (word + 1/2) / 2**32, g = -log(-log(1 - u)).

    The half keeps u off 0 and 1; log1p keeps the tail that large noise comes from.
    """
    u = (word.double() + 0.5) * 2.0**-32
    return -torch.log(-torch.log1p(-u))
