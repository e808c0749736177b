"""The mixture keeps its promise exactly: shares over many steps, the ramp's ends, the size of a step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpt.shards.mixture import KINDS, Mixture
from mmpt.store.errors import UserError

MEANS = {"a2t": 170.0, "i2t": 90.0, "t2a": 170.0, "t2i": 90.0, "text": 192.0}
WEIGHTS = {"a2t": 0.18, "i2t": 0.18, "t2a": 0.27, "t2i": 0.27, "text": 0.1}
positive = st.floats(0.01, 10)


def mixture(**changes):
    return Mixture(**{"weights": WEIGHTS, "mean_lengths": MEANS, "tokens_per_step": 4096, **changes})


@given(
    st.fixed_dictionaries(dict.fromkeys(KINDS, positive)),
    st.integers(100, 20_000),
    st.integers(0, 99),
    st.integers(1, 400),
)
def test_running_counts_stay_near_their_quota(weights, tokens, seed, steps):
    mix = Mixture(weights, MEANS, tokens, seed=seed)
    table = mix.count_table(np.arange(steps))
    behind = np.abs(np.cumsum(table, axis=0) - np.cumsum(mix.quotas(np.arange(steps)), axis=0))
    # The discrepancy of a golden-ratio sequence grows with the logarithm of its length only.
    assert behind.max() < 2 + np.log2(steps + 1)


@given(st.fixed_dictionaries(dict.fromkeys(KINDS, positive)), st.integers(100, 20_000), st.integers(0, 999))
def test_each_count_is_its_quota_rounded_up_or_down(weights, tokens, step):
    mix = Mixture(weights, MEANS, tokens)
    counts, quotas = np.array(list(mix.counts(step).values())), mix.quotas(step)
    assert (np.abs(counts - quotas) < 1).all()
    assert abs(counts.sum() - quotas.sum()) < 1


def test_whole_quotas_are_met_in_every_step():
    mix = Mixture({"a2t": 1, "t2a": 3}, {"a2t": 50.0, "t2a": 50.0}, 600)
    assert {tuple(row) for row in mix.count_table(np.arange(500)).tolist()} == {(3, 0, 9, 0, 0)}


def test_quotas_are_rounded_before_they_are_floored(monkeypatch):
    # Ten examples as floating point may give them: at an offset of 1e-12 the last one would be lost.
    monkeypatch.setattr(
        Mixture, "quotas", lambda self, steps: np.tile([3 - 4e-13, 7 - 4e-13, 0, 0, 0], (len(steps), 1))
    )
    monkeypatch.setattr("mmpt.shards.mixture._PHI", 1e-13)
    assert mixture().count_table(np.arange(3)).tolist() == [[3, 7, 0, 0, 0]] * 3


def test_a_step_holds_the_tokens_asked_for_in_the_mean():
    mix = mixture(ramp_start=50, ramp_steps=50)
    table = mix.count_table(np.arange(1000))
    tokens = table @ np.array([MEANS[kind] for kind in KINDS])
    assert abs(tokens[:50].mean() - 4096) < 41 and abs(tokens[100:].mean() - 4096) < 41


def test_a_step_smaller_than_an_example_still_holds_one():
    assert set(mixture(tokens_per_step=10).count_table(np.arange(100)).sum(axis=1)) == {1}


def test_the_ramp_is_read_only_then_linear_then_the_weights():
    mix = mixture(ramp_start=40, ramp_steps=20)
    shares = mix.shares(np.arange(100))
    emit = shares[:, [KINDS.index("t2a"), KINDS.index("t2i")]]
    assert (emit[:41] == 0).all()
    assert np.allclose(np.diff(emit[40:61], axis=0), 0.27 / 20)
    assert np.allclose(shares[60:], [WEIGHTS[kind] for kind in KINDS])
    assert np.allclose(shares[:, KINDS.index("text")], 0.1)
    assert np.allclose(shares.sum(axis=1), 1)
    assert mix.count_table(np.arange(41))[:, [2, 3]].sum() == 0


def test_without_ramp_the_weights_hold_from_the_first_step():
    assert np.allclose(mixture().shares(0), [WEIGHTS[kind] for kind in KINDS])


def test_counts_do_not_depend_on_what_else_is_asked():
    mix = mixture(ramp_start=10, ramp_steps=30)
    table = mix.count_table(np.arange(200))
    assert all(list(mix.counts(step).values()) == table[step].tolist() for step in (0, 17, 40, 199))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"weights": {"t2v": 1}}, "unknown task 't2v'"),
        ({"weights": {"t2a": 0}}, "not all 0"),
        ({"weights": {"t2a": -1, "a2t": 2}}, "none negative"),
        ({"weights": {"t2a": float("nan")}}, "finite"),
        ({"mean_lengths": {"a2t": 9.0}}, "i2t has a weight but no examples.*set mixture.weights.i2t to 0"),
        ({"weights": {"t2a": 1, "text": 1}, "ramp_start": 3}, "set mixture.ramp to 0"),
        ({"tokens_per_step": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        mixture(**changes)
