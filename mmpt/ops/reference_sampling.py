"""Reference implementation of sampling: one id per row from an allowed range; ids outside it cannot come out.

Only the head rows inside the range are multiplied. Sampling is Gumbel-max with counter-based noise, so the draw of a
row depends on its own logits, seed and offset, and not on its batch. Order of filters: temperature, top-k, top-p.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from mmpt.ops.philox import gumbel, word_at, words
from mmpt.ops.screens import Screen

Scalar = int | float | Tensor


def sample_range(
    hidden: Tensor,
    weight_base: Tensor,
    weight_new: Tensor | None,
    lo: int | Tensor,
    hi: int | Tensor,
    *,
    extra_id: int | Tensor | None = None,
    temperature: Scalar = 0.0,
    top_k: int | Tensor = 0,
    top_p: Scalar = 1.0,
    seed: int | Tensor = 0,
    offset: int | Tensor = 0,
    softcap: float | None = None,
    max_range: int | None = None,
    screen: Screen | None = None,
) -> Tensor:
    """One id per row, int64 [B], from the ids in [lo, hi) and extra_id.

    Args:
        hidden: [B, H].
        weight_base, weight_new: [V0, H] and [T, H], as in `linear_cross_entropy`.
        lo, hi: a number or int [B]; the allowed ids are lo..hi - 1.
        extra_id: a number or int [B]; one more allowed id; -1 or None: none.
        temperature: a number or [B]; 0: the id of the largest logit, the lowest id on a tie.
        top_k: a number or int [B]; keeps the k largest logits, of equal ones the lower ids; 0: all.
        top_p: a number or [B]; keeps the shortest prefix in that order whose probability reaches p, at least one id;
            1: all.
        seed, offset: a number or int [B]; the noise of a row is a function of both and of the id.
        softcap: as in `linear_cross_entropy`.
        max_range: widest hi - lo that the caller promises.
        screen: of this head (`mmpt.ops.screen`). It changes no id; the reference implementation does not use it.

    Raises:
        ValueError: an empty or too wide range, an id outside the vocabulary, a NaN logit.
    """

    def rows_of(start: int, stop: int) -> Tensor:
        split = weight_base.shape[0]
        if stop <= split:
            return weight_base[start:stop]
        if weight_new is None:
            raise ValueError(f"id {stop - 1} has no row: the head has {split} rows and no new ones")
        if start >= split:
            return weight_new[start - split : stop - split]
        return torch.cat([weight_base[start:], weight_new[: stop - split].to(weight_base.dtype)])

    acc = torch.float64 if hidden.dtype == torch.float64 else torch.float32

    def columns(members: Tensor, start: int, stop: int) -> Tensor:
        logits = hidden[members].to(acc) @ rows_of(start, stop).to(acc).T
        return logits if softcap is None else torch.tanh(logits / softcap) * softcap

    def single(members: Tensor, ids: Tensor) -> Tensor:
        distinct, which = torch.unique(ids, return_inverse=True)
        weight = torch.cat([rows_of(i, i + 1).to(acc) for i in distinct.tolist()])
        logits = (hidden[members].to(acc) * weight[which]).sum(1)
        return logits if softcap is None else torch.tanh(logits / softcap) * softcap

    vocab = weight_base.shape[0] + (0 if weight_new is None else weight_new.shape[0])
    rows = _Rows(hidden.shape[0], hidden.device, vocab, lo, hi, extra_id, temperature, top_k, top_p, seed, offset)
    rows.check_width(max_range)
    return _sample(rows, columns, single)


def sample_logits(
    logits: Tensor,
    lo: int | Tensor,
    hi: int | Tensor,
    *,
    extra_id: int | Tensor | None = None,
    temperature: Scalar = 0.0,
    top_k: int | Tensor = 0,
    top_p: Scalar = 1.0,
    seed: int | Tensor = 0,
    offset: int | Tensor = 0,
    max_range: int | None = None,
) -> Tensor:
    """`sample_range` of given logits [B, V] of all ids: the other arguments and the draws are the same."""
    rows = _Rows(
        logits.shape[0],
        logits.device,
        logits.shape[1],
        lo,
        hi,
        extra_id,
        temperature,
        top_k,
        top_p,
        seed,
        offset,
    )
    rows.check_width(max_range)
    values = logits if logits.dtype == torch.float64 else logits.float()
    return _sample(rows, lambda members, a, b: values[members, a:b], lambda members, ids: values[members, ids])


class _Rows:
    """The per-row arguments as tensors [B], checked."""

    def __init__(self, batch, device, vocab, lo, hi, extra, temperature, top_k, top_p, seed, offset) -> None:
        def column(name: str, value: Scalar, dtype: torch.dtype) -> Tensor:
            out = torch.as_tensor(value, device=device).to(dtype)
            if out.ndim and out.shape != (batch,):
                raise ValueError(f"{name} is {tuple(out.shape)}, expected a number or [{batch}]")
            return out.expand(batch)

        self.batch, self.device = batch, device
        self.lo, self.hi = column("lo", lo, torch.int64), column("hi", hi, torch.int64)
        self.extra = column("extra_id", -1 if extra is None else extra, torch.int64)
        self.temperature = column("temperature", temperature, torch.float64)
        self.top_k, self.top_p = column("top_k", top_k, torch.int64), column("top_p", top_p, torch.float64)
        self.seed, self.offset = column("seed", seed, torch.int64), column("offset", offset, torch.int64)
        bad = ((self.lo < 0) | (self.hi > vocab) | (self.lo >= self.hi) | (self.extra >= vocab)).nonzero()
        if bad.numel():
            i = int(bad[0])
            raise ValueError(
                f"row {i} allows ids [{int(self.lo[i])}, {int(self.hi[i])}) and {int(self.extra[i])}: "
                f"expected a non-empty range within [0, {vocab})"
            )
        wrong = {
            "temperature": (~(self.temperature >= 0) | self.temperature.isinf(), "is not finite and at least 0"),
            "top_k": (self.top_k < 0, "is negative"),
            "top_p": (~((self.top_p > 0) & (self.top_p <= 1)), "is not within (0, 1]"),
        }
        for name, (rows, why) in wrong.items():
            if bool(rows.any()):
                i = int(rows.nonzero()[0])
                raise ValueError(f"{name} {getattr(self, name)[i].item()} of row {i} {why}")

    def check_width(self, max_range: int | None) -> None:
        """ValueError where a row allows more than max_range ids."""
        wide: Any = (self.hi - self.lo > max_range).nonzero() if max_range is not None else ()
        if len(wide):
            i = int(wide[0])
            raise ValueError(f"row {i} allows {int(self.hi[i] - self.lo[i])} ids, max_range is {max_range}")

    def groups(self) -> Iterator[tuple[int, int, int, Tensor]]:
        """(lo, hi, side, rows) of rows with one range and one side (-1, 0 none, 1) of their extra id."""
        side = (self.extra >= self.hi).long() - ((self.extra >= 0) & (self.extra < self.lo)).long()
        keys, which = torch.unique(torch.stack([self.lo, self.hi, side], 1), dim=0, return_inverse=True)
        for i, (lo, hi, where) in enumerate(keys.tolist()):
            yield lo, hi, where, (which == i).nonzero(as_tuple=True)[0]


def _sample(rows: _Rows, columns: Callable, single: Callable) -> Tensor:
    out = torch.empty(rows.batch, dtype=torch.int64, device=rows.device)
    for lo, hi, side, members in rows.groups():
        logits = columns(members, lo, hi)
        extra = rows.extra[members]
        if side:  # the extra id becomes the first or last column, so that columns stay in ascending order of id
            parts = [single(members, extra)[:, None], logits]
            logits = torch.cat(parts if side < 0 else parts[::-1], 1)
        if bool(torch.isnan(logits).any()):
            row = int(members[int(torch.isnan(logits).any(1).nonzero()[0])])
            raise ValueError(f"row {row} has a NaN logit")
        column = _choose(rows, members, logits.double(), lo, hi, side, extra)
        if side < 0:
            out[members] = torch.where(column == 0, extra, column - 1 + lo)
        elif side > 0:
            out[members] = torch.where(column == hi - lo, extra, column + lo)
        else:
            out[members] = column + lo
    return out


def _choose(rows: _Rows, members: Tensor, logits: Tensor, lo: int, hi: int, side: int, extra: Tensor) -> Tensor:
    """The chosen column of each row; torch.argmax returns the first of equal values."""
    temperature = rows.temperature[members]
    hot = temperature > 0
    if not bool(hot.any()):
        return logits.argmax(1)
    scaled = logits / torch.where(hot, temperature, torch.ones_like(temperature))[:, None]
    kept = keep(scaled, rows.top_k[members], rows.top_p[members])
    seed, offset = rows.seed[members], rows.offset[members]
    noise = gumbel(words(seed, offset, lo, hi - lo))
    if side:
        parts = [gumbel(word_at(seed, offset, extra))[:, None], noise]
        noise = torch.cat(parts if side < 0 else parts[::-1], 1)
    drawn = torch.where(kept, scaled + noise, torch.full_like(scaled, -torch.inf)).argmax(1)
    return torch.where(hot, drawn, logits.argmax(1))


def keep(scaled: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Which columns survive top-k, then top-p: bool like scaled [B, R], fp64 logits over temperature."""
    finite = scaled > -torch.inf
    if bool((top_k == 0).all()) and bool((top_p == 1).all()):
        return finite
    ordered, order = torch.sort(scaled, dim=1, descending=True, stable=True)  # stable: lower ids first among equals
    rank = torch.arange(scaled.shape[1], device=scaled.device)[None, :]
    chosen = torch.where(top_k[:, None] > 0, rank < top_k[:, None], True)
    probs = torch.softmax(torch.where(chosen, ordered, torch.full_like(ordered, -torch.inf)), 1)
    before = probs.cumsum(1) - probs
    chosen &= (before < top_p[:, None]) | (top_p[:, None] == 1) | (rank == 0)
    return torch.zeros_like(finite).scatter(1, order, chosen) & finite
