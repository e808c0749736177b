"""How much probability the model itself gives to what the grammar allows, measured at a fixed sample of
positions.

Measuring multiplies the whole head, which with 164,021 ids costs far more than decoding does. So the hidden
states of at most about `POSITIONS` positions an output are kept, and multiplied when it is finished. Which
positions depends on the output's longest length alone: neither batch nor device changes the number.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmpt.tokens.grammar import Grammar

POSITIONS = 32
GOLDEN = (5**0.5 - 1) / 2


def measured(steps: int) -> np.ndarray:
    """Positions of an output of up to `steps` that are measured, ascending, the first always among them.

    All of them up to POSITIONS; of longer ones those p whose p * golden ratio, modulo 1, is below a
    threshold. They lie evenly and keep no step with any period, so every codebook of a frame gets its
    share.
    """
    p = np.arange(steps)
    return p[(p * GOLDEN) % 1.0 < min(1.0, POSITIONS / steps)] if steps > POSITIONS else p


def most_measured(steps: int) -> int:
    """The most positions that `measured` gives for any output of up to `steps`."""
    return min(steps, POSITIONS + 2)  # the golden sequence is off by less than 2 in any interval


def is_open(grammar: Grammar, vocab_size: int) -> bool:
    """Whether every id is allowed at every position: the mass is 1 without measuring it."""
    return bool((grammar.lo == 0).all() and (grammar.hi == vocab_size).all())


def measured_masses(hidden: Tensor, head, grammar: Grammar, decoded: int) -> np.ndarray:
    """float64 [n]: the mass at each measured position below `decoded`; `hidden` [n.., H] starts with their states, in
    order.
    """
    at = measured(grammar.max_len)
    at = at[at < decoded]
    bounds = grammar.lo[at], grammar.hi[at], np.where(grammar.end_allowed[at], grammar.end_id, -1)
    return allowed_mass(hidden[: len(at)], head, *bounds).cpu().numpy()


def allowed_mass(hidden: Tensor, head, lo: np.ndarray, hi: np.ndarray, extra: np.ndarray) -> Tensor:
    """Probability `[B]` (float64) of `[lo, hi)` and `extra` (-1: none) under the softmax over all columns.

    `hidden` [B, H]; `head` the pair (base rows [V0, H], new rows [T, H] or None); bounds int [B].
    """
    logits = torch.cat([(hidden.to(w.dtype) @ w.T).float() for w in head if w is not None], dim=1)
    inside = logits.new_empty(len(logits))
    for first, last in set(zip(lo.tolist(), hi.tolist(), strict=True)):
        rows = torch.as_tensor(np.flatnonzero((lo == first) & (hi == last)), device=logits.device)
        inside[rows] = logits[rows, first:last].logsumexp(1)
    apart = np.flatnonzero((extra >= 0) & ((extra < lo) | (extra >= hi)))
    rows, ids = (torch.as_tensor(x, device=logits.device) for x in (apart, extra[apart]))
    inside[rows] = torch.logaddexp(inside[rows], logits[rows, ids])
    return (inside - logits.logsumexp(1)).double().exp()
