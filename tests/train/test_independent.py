"""B1's independent part: unigram costs, halves, and how far two scorers are apart."""

import numpy as np
import pytest

from mmpt.model.plain import Scored
from mmpt.train.independent import agreement_metrics, halves, unigram_cost
from tests.model.tiny_model import small_space


def test_unigram_costs_know_codebooks_apart():
    space = small_space()
    train = space.audio_to_global(np.array([[0] * 99 + [1], [2] * 100]))
    cost = unigram_cost(space, [train[:2], train[2:]])
    same, other = space.audio_to_global(np.array([[0], [2]])), space.audio_to_global(np.array([[2], [0]]))
    assert cost[same].mean() == pytest.approx(-(np.log(100 / 106) + np.log(101 / 106)) / 2)
    assert cost[other].mean() == pytest.approx(-(np.log(1 / 106) + np.log(1 / 106)) / 2)


def test_halves_are_cut_between_frames():
    first, second = halves(np.arange(10), 2)
    assert first.tolist() == [0, 1, 2, 3] and second.tolist() == [4, 5, 6, 7, 8, 9]


def test_losses_of_shifted_labels_are_told_from_the_right_ones():
    """A trainer that scores each id at its neighbour's place reports other means than the independent scorer."""
    rng = np.random.default_rng(0)
    scores = [Scored(nll, nll, nll * 0, nll * 0) for nll in rng.random((20, 8))]
    right = {"t2i": [float(one.nll.mean()) for one in scores]}
    shifted = {"t2i": [float(np.roll(one.nll, 1)[:-1].mean()) for one in scores]}
    values = [agreement_metrics({"t2i": scores}, trainer)[0].value for trainer in (right, shifted)]
    assert values[0] == pytest.approx(0.0, abs=1e-9) and values[1] > 0.02
    missing = agreement_metrics({"t2i": scores}, {})[0]
    assert missing.value is None and missing.n == 0
