"""Means with intervals: a percentile bootstrap over groups, so that items which share a source count once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from mmpt.store.evidence import Direction, Metric

Values = Sequence[float] | np.ndarray

ONE_SIDED = 0.95  # level of a one-sided bound
CHUNK = 200  # resamples drawn at once: bounds memory at CHUNK x groups numbers


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its 95 % interval; `n` items in `n_groups` groups."""

    value: float
    low: float
    high: float
    n: int
    n_groups: int

    def metric(self, name: str, unit: str = "nats/token", direction: Direction = "higher", slice: str = "") -> Metric:
        return Metric(name, self.value, self.n, unit, direction, self.low, self.high, slice)

    def groups_metric(self, slice: str = "") -> Metric:
        """How many groups the interval rests on: of one it is a point, of a few it is too narrow."""
        return Metric("independent_groups", self.n_groups, self.n, "groups", "higher", slice=slice)


def mean_interval(
    values: Values,
    groups: Sequence[str] | np.ndarray | None = None,
    *,
    resamples: int,
    seed: int,
) -> Interval:
    """The mean of `values` [n] and its 95 % bootstrap interval, whole groups drawn with replacement.

    `groups` [n]: items with an equal name are drawn together (default: each item alone). For paired measures pass the
    differences. An interval of a single group is a point and says nothing: callers look at `n_groups`. Raises
    ValueError for no values.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        raise ValueError("a mean of no values")
    names, member = np.unique(np.arange(len(values)) if groups is None else np.asarray(groups), return_inverse=True)
    totals, counts = np.bincount(member, values), np.bincount(member)
    means = _resampled(totals, counts, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(totals.sum() / counts.sum()), float(low), float(high), len(values), len(names))


def _resampled(totals: np.ndarray, counts: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    means = []
    for start in range(0, resamples, CHUNK):
        drawn = rng.integers(0, len(totals), (min(CHUNK, resamples - start), len(totals)))
        means.append(totals[drawn].sum(1) / counts[drawn].sum(1))
    return np.concatenate(means)


def win_rate(better: Values, worse: Values) -> float:
    """Share of pairs with `better` strictly below `worse`; a tie is no win."""
    return float(np.mean(np.asarray(better) < np.asarray(worse)))


def clopper_pearson(k: int, n: int) -> tuple[float, float]:
    """One-sided bounds, each at 95 %, of a share seen k times in n (Clopper and Pearson, Biometrika 1934).

    Exact: the share is above the lower, and below the upper bound, each with at least that probability. Raises
    ValueError for n = 0.
    """
    if not 0 <= k <= n or n < 1:
        raise ValueError(f"{k} of {n} is no share")
    low = float(beta.ppf(1 - ONE_SIDED, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(ONE_SIDED, k + 1, n - k)) if k < n else 1.0
    return low, high
