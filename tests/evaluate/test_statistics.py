"""Intervals: groups are what is drawn, equal seeds give equal ends, and the truth lies inside as often as
promised.
"""

import numpy as np
import pytest

from mmpt.evaluate.statistics import mean_interval, win_rate


def test_the_interval_holds_the_mean():
    interval = mean_interval([1.0, 2.0, 6.0], resamples=200, seed=1)
    assert interval.value == pytest.approx(3)
    assert interval.low <= interval.value <= interval.high
    assert (interval.n, interval.n_groups) == (3, 3)


def test_items_of_one_group_count_once():
    rng = np.random.default_rng(0)
    effects = rng.normal(0, 1, 20)
    values = np.repeat(effects, 30) + rng.normal(0, 0.01, 600)
    groups = [f"g{i}" for i in range(20) for _ in range(30)]
    grouped = mean_interval(values, groups, resamples=1000, seed=0)
    alone = mean_interval(values, resamples=1000, seed=0)
    assert grouped.high - grouped.low > 4 * (alone.high - alone.low)
    assert grouped.n_groups == 20


def test_the_interval_covers_the_truth():
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        interval = mean_interval(rng.normal(5.0, 2.0, 60), resamples=300, seed=trial)
        covered += interval.low <= 5.0 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_a_seed_decides_the_interval():
    values = np.random.default_rng(0).normal(size=50)
    one = mean_interval(values, resamples=500, seed=7)
    assert one == mean_interval(values, resamples=500, seed=7)
    assert one != mean_interval(values, resamples=500, seed=8)


def test_no_values_is_an_error():
    with pytest.raises(ValueError, match="no values"):
        mean_interval([], resamples=100, seed=0)


def test_a_tie_is_no_win():
    assert win_rate([1.0, 2.0, 3.0, 3.0], [2.0, 2.0, 2.0, 4.0]) == 0.5


def test_metric_carries_the_ends():
    metric = mean_interval([1.0, 3.0], resamples=100, seed=0).metric("gap_swapped_nats", slice="t2a")
    assert (metric.name, metric.value, metric.n, metric.slice) == ("gap_swapped_nats", 2.0, 2, "t2a")
    assert metric.ci_low <= 2.0 <= metric.ci_high
