"""Range-constrained sampling: support, ties, filters, independence of rows, and the distribution itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mmpt.ops import sample_logits, sample_range
from mmpt.ops.philox import philox4x32, words
from mmpt.ops.reference_sampling import keep

pytestmark = pytest.mark.usefixtures("backend")


def test_philox_known_answers():
    """The published test vectors of Philox4x32-10."""

    def t(*xs):
        return tuple(torch.tensor([x]) for x in xs)

    full = 0xFFFFFFFF
    assert [int(x) for x in philox4x32(t(0, 0, 0, 0), t(0, 0))] == [
        0x6627E8D5,
        0xE169C58D,
        0xBC57AC4C,
        0x9B00DBD8,
    ]
    assert [int(x) for x in philox4x32(t(full, full, full, full), t(full, full))] == [
        0x408F276D,
        0x41C83B0E,
        0xA20BC7C6,
        0x6D5451FD,
    ]


def test_a_word_depends_on_its_id_alone():
    seed, offset = torch.tensor([5, 6]), torch.tensor([1, 2**40])
    whole = words(seed, offset, 0, 50)
    assert torch.equal(words(seed, offset, 13, 9), whole[:, 13:22])
    assert torch.equal(words(seed[1:], offset[1:], 13, 9), whole[1:, 13:22])


@given(st.integers(0, 2**31), st.integers(1, 6), st.floats(0, 3), st.integers(0, 5), st.floats(0.05, 1.0))
@settings(max_examples=60, deadline=None)
def test_the_support_is_never_left(seed, batch, temperature, k, p):
    rng = np.random.default_rng(seed)
    vocab = 40
    lo = torch.from_numpy(rng.integers(0, vocab - 1, batch))
    hi = torch.minimum(lo + torch.from_numpy(rng.integers(1, 12, batch)), torch.tensor(vocab))
    extra = torch.from_numpy(rng.integers(-1, vocab, batch))
    logits = torch.from_numpy(rng.normal(0, 20, (batch, vocab)))
    got = sample_logits(logits, lo, hi, extra_id=extra, temperature=temperature, top_k=k, top_p=p, seed=seed)
    assert bool((((got >= lo) & (got < hi)) | ((got == extra) & (extra >= 0))).all())


def test_greedy_takes_the_lowest_of_equal_logits():
    logits = torch.tensor([[1.0, 5, 5, 2, 5], [5, 5, 1, 5, 9]])
    assert sample_logits(logits, 1, 4).tolist() == [1, 1]
    assert sample_logits(logits, 2, 4, extra_id=torch.tensor([1, 0])).tolist() == [1, 0]
    assert sample_logits(logits, 1, 4, extra_id=torch.tensor([4, 4])).tolist() == [1, 4]


def test_hidden_and_logits_give_the_same_draw_on_ranges_that_cross_both_matrices():
    g = torch.Generator().manual_seed(1)
    hidden, base, new = (torch.randn(n, 8, generator=g, dtype=torch.float64) for n in (6, 20, 13))
    logits = hidden @ torch.cat([base, new]).T
    lo, hi = torch.tensor([0, 0, 15, 15, 22, 25]), torch.tensor([20, 33, 30, 30, 33, 26])
    args = dict(extra_id=torch.tensor([-1, -1, 2, 32, 3, 1]), temperature=1.3, top_k=4, seed=torch.arange(6), offset=7)
    assert torch.equal(sample_range(hidden, base, new, lo, hi, **args), sample_logits(logits, lo, hi, **args))


def test_a_row_draws_the_same_alone_and_in_any_order():
    logits = torch.randn(9, 64, generator=torch.Generator().manual_seed(2))
    seed, lo, extra = torch.arange(9), torch.arange(9) % 3, torch.arange(9) % 2 * 61 - 1
    whole = sample_logits(logits, lo, 50, extra_id=extra, temperature=1.0, top_p=0.9, seed=seed, offset=3)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    again = sample_logits(
        logits[order],
        lo[order],
        50,
        extra_id=extra[order],
        temperature=1.0,
        top_p=0.9,
        seed=seed[order],
        offset=3,
    )
    assert torch.equal(again, whole[order])
    for i in range(9):
        one = sample_logits(
            logits[i : i + 1],
            int(lo[i]),
            50,
            extra_id=int(extra[i]),
            temperature=1.0,
            top_p=0.9,
            seed=i,
            offset=3,
        )
        assert int(one) == int(whole[i])


def test_draws_follow_the_distribution():
    n, logits = 100_000, torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5, 3.0])
    got = sample_logits(logits.expand(n, 6), 1, 5, extra_id=0, temperature=1.5, seed=11, offset=torch.arange(n))
    p = torch.softmax(logits[:5].double() / 1.5, 0)
    assert chisquare(torch.bincount(got, minlength=5).numpy(), (p * n).numpy()).pvalue > 1e-3


def test_a_rare_tail_is_drawn_as_often_as_it_should_be():
    """30,000 ids, each e**-14 as likely as the first: together 2.43 % of the draws."""
    logits = torch.full((1, 30_001), -14.0)
    logits[0, 0] = 0.0
    n = 400
    got = sample_logits(logits.expand(n, -1), 0, 30_001, temperature=1.0, seed=4, offset=torch.arange(n))
    expected = n * 30_000 * np.exp(-14.0) / (1 + 30_000 * np.exp(-14.0))
    assert abs(int((got > 0).sum()) - expected) < 4 * expected**0.5


@given(st.integers(0, 2**31), st.integers(0, 8), st.floats(0.01, 1.0))
@settings(max_examples=100, deadline=None)
def test_the_kept_set_equals_an_oracle_with_ties(seed, k, p):
    z = np.random.default_rng(seed).integers(-2, 3, 9).astype(np.float64)
    order = sorted(range(9), key=lambda i: (-z[i], i))
    if k:
        order = order[:k]
    probs = np.exp(z[order] - z[order].max())
    probs /= probs.sum()
    before = np.cumsum(probs) - probs
    expected = {i for i, b, r in zip(order, before, range(9), strict=False) if b < p or p == 1 or r == 0}
    got = keep(torch.from_numpy(z)[None], torch.tensor([k]), torch.tensor([p], dtype=torch.float64))[0]
    borderline = any(abs(b - p) < 1e-9 for b in before)
    assert borderline or set(got.nonzero()[:, 0].tolist()) == expected


def test_rows_may_mix_greedy_and_sampling():
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(5))
    got = sample_logits(logits, 0, 30, temperature=torch.tensor([0.0, 1.0, 0.0, 1.0]), seed=9)
    assert got[0] == logits[0].argmax() and got[2] == logits[2].argmax()


@pytest.mark.parametrize(
    "change, words_",
    [
        (dict(lo=3, hi=3), r"row 0 allows ids \[3, 3\)"),
        (dict(hi=31), r"within \[0, 30\)"),
        (dict(extra_id=30), "and 30"),
        (dict(temperature=-1.0), "temperature -1"),
        (dict(temperature=float("nan")), "temperature nan of row 0 is not finite"),
        (dict(temperature=torch.tensor([1.0, torch.inf])), "temperature inf of row 1"),
        (dict(top_p=float("nan")), "top_p nan of row 0"),
        (dict(top_p=0.0), "top_p"),
        (dict(seed=torch.zeros(3)), r"seed is [(\[]3"),
    ],
)
def test_bad_arguments_are_named(change, words_):
    with pytest.raises(ValueError, match=words_):
        sample_logits(torch.zeros(2, 30), **{"lo": 0, "hi": 5, **change})


def test_a_nan_logit_is_refused():
    logits = torch.zeros(3, 10)
    logits[1, 4] = torch.nan
    with pytest.raises(ValueError, match="row 1 has a NaN"):
        sample_logits(logits, 0, 10)
    assert sample_logits(logits, 5, 10).tolist() == [5, 5, 5]
