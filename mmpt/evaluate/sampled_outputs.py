"""Outputs sampled at temperature 1, compared with the independent scorer (`mmpt.model.plain`).

Two questions are asked of each sampled id, and neither looks at the code that drew it:

    drawn   Is it the id that the output's own seed draws? A draw is the argmax of logit / temperature + Gumbel noise
            over the allowed ids (Gumbel 1954; Maddison et al. 2014), and the noise is a function of seed, position and
            id. The seed is derived here anew from what is documented: run, task, record. Greedy outputs, another
            temperature, one seed for all, or ids that a filter should have left out are other ids.
    rank    Do its ids follow the model's distribution? The ids of a position are ordered from the likeliest to the
            least likely one. With P the probability before the sampled id in this order and p its own, the mid-rank
            m = P + p / 2 has mean 1/2 and variance (1 - sum of q^3) / 12 over the distribution q, whatever q is
            (Lancaster 1961), so that S, the sum of m - 1/2 over all positions, is a martingale. By Freedman's
            inequality (1975), with V the sum of the variances and steps of at most 1/2,
            P(|S| >= x) <= 2 exp(-z^2 / 2) for z = x / sqrt(V + x / 6). Bound 5: 7.5e-6 for each task (V is of the
            outputs themselves, which costs a small factor). No noise and no seed enters. Greedy outputs and low
            temperatures have z far below 0, high ones above.

Measured on 2026-11-30 on profile smoke (64 outputs per task, 0.3 to 0.5 nats per position): |z| at most 3.3 over 52
sets of outputs; greedy -9 to -15; at temperature 0.5 -5 to -8, at 1.25 3.7 to 5.7.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmpt.evaluate.outputs import Asked, Row, tolerance
from mmpt.model.plain import Choices, PlainLM, sequence
from mmpt.ops.philox import gumbel, words
from mmpt.store.evidence import Metric
from mmpt.store.tasks import EMIT_TASKS
from mmpt.tokens import TokenSpace

STEP = 0.5  # the largest step of S


@dataclass(frozen=True)
class Filters:
    """How sampled outputs are meant to be drawn; applied in this order. top_k 0, top_p 1: off."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


@dataclass(frozen=True)
class Draws:
    """What was found at each position of one output, float64 [scored].

    lead: by how much another id beats the one that stands there, noise included; inf where a filter excludes it.
    allowed: how much of that rounding explains. rank: m - 1/2. variance: of rank.
    """

    lead: np.ndarray
    allowed: np.ndarray
    rank: np.ndarray
    variance: np.ndarray


def seed_of(run_seed: int, task: str, record_id: str) -> int:
    """The seed of a sampled golden output: the first 63 bits of SHA-256 of run seed, task, id and "sampled"."""
    text = "\0".join((str(run_seed), task, record_id, "sampled"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def sampled_draws(
    model: PlainLM,
    space: TokenSpace,
    asked: Asked,
    rows: Sequence[Row],
    run_seed: int,
    filters: Filters,
    dtype: torch.dtype,
    guidance: float = 1.0,
) -> list[Draws]:
    """Of each sampled output of a task, in the order of its golden records."""
    task, ended = asked.task, [bool(row["ended"]) and asked.task not in EMIT_TASKS for row in rows]
    items = range(len(rows))
    own = [sequence(space, task, asked.conditions[i], rows[i]["ids"], ended=ended[i]) for i in items]
    empty = [sequence(space, task, [], rows[i]["ids"], ended=ended[i]) for i in items] if guidance != 1.0 else ()
    found = []
    for name, pieces in zip(asked.ids, model.choices(own, guide=empty, guidance=guidance), strict=True):
        parts = [looked_at(one, seed_of(run_seed, task, name), filters, dtype) for one in pieces]
        found.append(Draws(*(np.concatenate(column) for column in zip(*parts, strict=True))))
    return found


def looked_at(one: Choices, seed: int, filters: Filters, dtype: torch.dtype) -> tuple[np.ndarray, ...]:
    """The columns of `Draws` at a few positions."""
    scale = one.logits.masked_fill(one.logits == -torch.inf, 0.0).abs().amax(1).cpu().numpy()
    allowed = tolerance(scale, dtype) / filters.temperature
    scaled, slack = one.logits.double() / filters.temperature, torch.as_tensor(allowed, device=one.logits.device)
    noisy = scaled + _noise(one, seed)
    mine = _of(noisy.masked_fill(~kept(scaled, filters, slack), -torch.inf), one)
    best = noisy.masked_fill(~kept(scaled, filters, -slack), -torch.inf).amax(1)
    rank, variance = mid_ranks(scaled.masked_fill(~kept(scaled, filters, 0 * slack), -torch.inf), one.chosen)
    return (best - mine).cpu().numpy(), allowed, rank.cpu().numpy(), variance.cpu().numpy()


def mid_ranks(scaled: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """(m - 1/2, its variance) of the ids in columns `chosen` [p] under softmax(scaled) [p, C]; equals by column."""
    chance = scaled.softmax(1)
    own = chance.gather(1, chosen[:, None])
    earlier = torch.arange(scaled.shape[1], device=scaled.device) < chosen[:, None]
    before = (chance * ((chance > own) | ((chance == own) & earlier))).sum(1)
    return before + own[:, 0] / 2 - 0.5, (1 - (chance**3).sum(1)) / 12


def kept(scaled: Tensor, filters: Filters, slack: Tensor) -> Tensor:
    """Which ids top-k and then top-p leave, bool like `scaled` [p, C].

    slack: [p], by how much two logits may differ by rounding: with one above 0 an id that may just have been left is
    in, with one below 0 an id that may just have been excluded is out.
    """
    there = scaled > -torch.inf
    if filters.top_k == 0 and filters.top_p == 1.0:
        return there
    ordered, order = torch.sort(scaled, dim=1, descending=True, stable=True)
    stays = torch.ones_like(there)
    if filters.top_k:
        last = ordered[:, [min(filters.top_k, scaled.shape[1]) - 1]]
        stays = ordered >= last - slack[:, None]
    if filters.top_p < 1.0:
        chance = ordered.masked_fill(~stays, -torch.inf).softmax(1)
        stays &= chance.cumsum(1) - chance < filters.top_p * (1 + slack[:, None])
    stays[:, 0] = True
    return torch.zeros_like(there).scatter(1, order, stays) & there


def _noise(one: Choices, seed: int) -> Tensor:
    """Gumbel noise, fp64 [p, C], of the ids at their positions."""
    positions = one.start + torch.arange(len(one.chosen), device=one.ids.device)
    first = int(one.ids[0])
    count = int(one.ids[-1]) + 1 - first
    whole = words(torch.full_like(positions, seed), positions, first, count)
    return gumbel(whole[:, one.ids - first])


def _of(values: Tensor, one: Choices) -> Tensor:
    return values.gather(1, one.chosen[:, None])[:, 0]


def sampling_metrics(task: str, found: Sequence[Draws]) -> list[Metric]:
    """C1 of one task. not_drawn_rate: share of positions; draw_rank_z: |z|; n: outputs."""
    lead, allowed, rank, variance = (
        np.concatenate([getattr(one, name) for one in found]) for name in ("lead", "allowed", "rank", "variance")
    )
    wrong = float((~(lead <= allowed)).mean())  # NaN is no draw
    return [
        Metric("not_drawn_rate", wrong, len(found), "share", "lower", slice=task),
        Metric("draw_rank_z", abs(rank_z(rank, variance)), len(found), "sd", "lower", slice=task),
    ]


def rank_z(rank: np.ndarray, variance: np.ndarray) -> float:
    """z of Freedman's inequality, with the sign of the sum; 0 where nothing could have come out otherwise."""
    total = float(rank.sum())
    spread = float(variance.sum()) + STEP * abs(total) / 3
    return total / spread**0.5 if spread > 0 else 0.0
