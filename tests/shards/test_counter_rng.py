"""Counter-based numbers: a function of key and counter, uniform, and different for every purpose."""

import numpy as np

from mmpt.shards.counter_rng import permutation, stream, uniform


def test_the_numbers_are_these_for_ever():
    # A changed number would reshuffle every resumed run.
    key = stream(7, "epoch", "t2a", 0)
    assert int(key) == 18105610392417062137
    assert permutation(key, 8).tolist() == [1, 0, 3, 7, 4, 2, 6, 5]
    assert uniform(key, np.arange(2)).tolist() == [0.0827310603328284, 0.07520305099613611]


def test_any_subset_can_be_asked_for_in_any_order():
    key = stream(1, "x")
    whole = uniform(key, np.arange(1000))
    assert (uniform(key, np.array([999, 3, 3])) == whole[[999, 3, 3]]).all()


def test_uniform_looks_uniform_and_streams_unrelated():
    a, b = uniform(stream(1, "x"), np.arange(20_000)), uniform(stream(2, "x"), np.arange(20_000))
    histogram = np.histogram(a, bins=20, range=(0, 1))[0]
    assert a.min() >= 0 and a.max() < 1
    assert (np.abs(histogram - 1000) < 150).all()  # 31 is one standard deviation
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.03 and abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.03


def test_a_permutation_holds_everything_once_and_differs_by_epoch():
    orders = [permutation(stream(0, "epoch", epoch), 500).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(500)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
