"""The compiled sampler: its support, its order, its distribution, and its independence of the batch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmpt.ops import native, philox
from mmpt.ops import sample_logits as plain_logits
from mmpt.ops import sample_range as plain_range
from mmpt.ops.native import sample_logits, sample_range

KEYS = {"seed": 123456789012345, "offset": 2**40 + 7}


def head(batch=50, h=40, v0=900, t=300, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)

    def make(*shape):
        return torch.randn(*shape, generator=g).to(dtype)

    return make(batch, h), make(v0, h) * 0.3, make(t, h) * 0.3


def per_row(batch, vocabulary, seed):
    """Every parameter drawn for each row."""
    g = torch.Generator().manual_seed(seed)
    lo = torch.randint(0, vocabulary - 1, (batch,), generator=g)
    hi = torch.minimum(lo + torch.randint(1, 200, (batch,), generator=g), torch.tensor(vocabulary))
    temperature = torch.rand(batch, generator=g) * 2
    temperature[::4] = 0
    rest = {
        "extra_id": torch.randint(-1, vocabulary, (batch,), generator=g),
        "temperature": temperature,
        "top_k": torch.randint(0, 60, (batch,), generator=g),
        "top_p": torch.rand(batch, generator=g) * 0.99 + 0.01,
        "seed": torch.randint(0, 2**60, (batch,), generator=g),
        "offset": torch.arange(batch) + seed,
    }
    return lo, hi, rest


def test_noise_is_the_plain_ones(instruction_set):
    theirs = philox.words(torch.tensor([KEYS["seed"]]), torch.tensor([KEYS["offset"]]), 1001, 500)[0]
    ours = native.kernels.philox_words(KEYS["seed"], KEYS["offset"], 1001, 500)
    assert np.array_equal(ours.astype(np.int64), theirs.numpy())


def test_noise_is_the_published_philox():
    # Known answers of Philox4x32-10 (Salmon et al., Random123): zero counter and key.
    assert [hex(x) for x in native.kernels.philox_words(0, 0, 0, 4)] == [
        "0x6627e8d5",
        "0xe169c58d",
        "0xbc57ac4c",
        "0x9b00dbd8",
    ]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("without", [(), ("top_k",), ("top_p",), ("top_k", "top_p"), ("extra_id",)])
def test_draws_equal_the_plain_ones(seed, without):
    lo, hi, rest = per_row(50, 1200, seed)
    rest = {name: value for name, value in rest.items() if name not in without}
    dtype = (torch.float32, torch.bfloat16, torch.float64)[seed % 3]
    logits = (torch.randn(50, 1200, generator=torch.Generator().manual_seed(seed)) * 2).to(dtype)
    assert torch.equal(sample_logits(logits, lo, hi, **rest), plain_logits(logits, lo, hi, **rest))
    hidden, base, new = head(seed=seed, dtype=dtype)
    softcap = 3.0 if seed % 2 else None
    assert torch.equal(
        sample_range(hidden, base, new, lo, hi, softcap=softcap, **rest),
        plain_range(hidden, base, new, lo, hi, softcap=softcap, **rest),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_draw_depends_on_its_own_row_alone(instruction_set, dtype):
    hidden, base, new = head(64, h=75, dtype=dtype)
    lo, hi, rest = per_row(64, 1200, 3)
    lo[::2], hi[::2] = 850, 1100  # shared ranges are multiplied together
    together = sample_range(hidden, base, new, lo, hi, **rest)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    shuffled = sample_range(hidden[order], base, new, lo[order], hi[order], **{k: v[order] for k, v in rest.items()})
    assert torch.equal(shuffled, together[order])
    for i in range(0, 64, 7):
        one = {name: value[i].item() for name, value in rest.items()}
        alone = sample_range(hidden[i : i + 1], base, new, int(lo[i]), int(hi[i]), **one)
        assert alone.item() == together[i].item()


def test_every_instruction_set_draws_the_same():
    hidden, base, new = head(64, h=75)
    lo, hi, rest = per_row(64, 1200, 4)
    draws = []
    for name in ("avx2", "avx512", ""):
        if native.kernels.select_instruction_set(name):
            draws.append(sample_range(hidden, base, new, lo, hi, **rest))
    native.kernels.select_instruction_set("")
    assert all(torch.equal(draws[0], other) for other in draws)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_nothing_outside_the_allowed_ids_comes_out(data):
    vocabulary = data.draw(st.integers(1, 40))
    lo = data.draw(st.integers(0, vocabulary - 1))
    hi = data.draw(st.integers(lo + 1, vocabulary))
    extra = data.draw(st.integers(-1, vocabulary - 1))
    values = st.one_of(st.floats(-50, 50, width=32), st.sampled_from([-math.inf, math.inf, 3e38, -3e38, 0.0]))
    logits = torch.tensor(data.draw(st.lists(values, min_size=vocabulary, max_size=vocabulary)))[None]
    chosen = sample_logits(
        logits,
        lo,
        hi,
        extra_id=extra,
        temperature=data.draw(st.sampled_from([0.0, 1e-30, 0.3, 1.0, 50.0])),
        top_k=data.draw(st.integers(0, 5)),
        top_p=data.draw(st.floats(0.01, 1.0)),
        seed=data.draw(st.integers(0, 2**63 - 1)),
        offset=data.draw(st.integers(0, 2**63 - 1)),
    ).item()
    assert lo <= chosen < hi or (chosen == extra and extra >= 0)


def kept(logits, top_k, top_p):
    """The ids that can come out, found from draws: at a high temperature each of them soon does."""
    return set(
        sample_logits(
            logits.expand(4000, -1),
            0,
            logits.shape[1],
            temperature=1.0,
            top_k=top_k,
            top_p=top_p,
            seed=torch.arange(4000),
        ).tolist()
    )


def oracle(logits, top_k, top_p):
    """The same set by sorting in float64: top-k, then the shortest prefix reaching top_p; lower ids first in ties."""
    values = logits[0].double().tolist()
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    order = order[:top_k] if top_k else order
    weight = [math.exp(values[i] - values[order[0]]) for i in order]
    total, before, out = math.fsum(weight), 0.0, set()
    for i, w in zip(order, weight, strict=True):
        if before >= top_p * total:
            break
        out.add(i)
        before += w
    return out


@pytest.mark.parametrize(
    "top_k,top_p", [(1, 1.0), (3, 1.0), (7, 1.0), (0, 0.3), (0, 0.7), (0, 0.95), (5, 0.6), (12, 0.5)]
)
def test_filters_keep_the_oracles_set_with_ties(top_k, top_p):
    g = torch.Generator().manual_seed(5)
    smooth = torch.randn(1, 30, generator=g)
    tied = torch.randint(0, 3, (1, 30), generator=g).float() * 0.5
    flat = torch.zeros(1, 16)
    for logits in (smooth, tied, flat):
        assert kept(logits, top_k, top_p) == oracle(logits, top_k, top_p)


def test_a_million_draws_follow_the_softmax():
    logits = torch.randn(1, 64, generator=torch.Generator().manual_seed(2)) * 1.5
    seen = np.zeros(64)
    for part in range(10):
        seed = torch.arange(100_000) + part * 100_000
        draws = sample_logits(logits.expand(100_000, -1), 0, 64, temperature=1.0, seed=seed)
        seen += np.bincount(draws.numpy(), minlength=64)
    expected = torch.softmax(logits[0].double(), 0).numpy() * 1_000_000
    assert stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue > 1e-4


def test_the_far_tail_is_drawn_as_often_as_it_should():
    # 65,536 ids 17 nats below one: fp32 uniform noise (24 bits) would never reach them. 8,000 draws hit 21.7 times.
    tail, gap, draws = 65_536, 17.0, 8_000
    logits = torch.zeros(1, tail + 1)
    logits[0, 0] = gap
    hits = 0
    for part in range(20):
        seed = torch.arange(draws // 20) + part * draws
        hits += int((sample_logits(logits.expand(draws // 20, -1), 0, tail + 1, temperature=1.0, seed=seed) > 0).sum())
    rate = draws * tail * math.exp(-gap) / (1 + tail * math.exp(-gap))
    assert stats.poisson.ppf(5e-4, rate) <= hits <= stats.poisson.ppf(1 - 5e-4, rate)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"lo": 5, "hi": 5}, r"row 0 allows ids \[5, 5\)"),
        ({"hi": 9}, r"expected a non-empty range within \[0, 8\)"),
        ({"lo": -1}, r"\[-1, 8\)"),
        ({"extra_id": 8}, r"and 8"),
        ({"temperature": -0.5}, "temperature -0.5 of row 0"),
        ({"top_k": -2}, "top_k -2 of row 0"),
        ({"top_p": 0.0}, "top_p 0 of row 0"),
        ({"top_p": 1.5}, "top_p 1.5"),
        ({"seed": torch.zeros(4, dtype=torch.long)}, r"seed is \[4\], expected a number or \[3\]"),
    ],
)
def test_a_wrong_argument_raises_with_its_value(change, message):
    arguments = {"lo": 0, "hi": 8, "temperature": 1.0, **change}
    with pytest.raises(ValueError, match=message):
        sample_logits(torch.zeros(3, 8), **arguments)
    hidden, base = torch.zeros(3, 4), torch.zeros(8, 4)
    with pytest.raises(ValueError, match=message):
        sample_range(hidden, base, None, **arguments)


@pytest.mark.parametrize("form", ["turned", "apart"])
def test_strided_weights_give_the_same_ids(form):
    hidden, base, new = head(8)
    lo, hi, rest = per_row(8, 1200, 6)
    change = {"turned": lambda x: x.T.contiguous().T, "apart": lambda x: torch.stack([x, x], -1)[..., 0]}[form]
    assert torch.equal(
        sample_range(change(hidden), change(base), change(new), lo, hi, **rest),
        sample_range(hidden, base, new, lo, hi, **rest),
    )


def test_empty_batch():
    assert sample_logits(torch.zeros(0, 8), 0, 8).shape == (0,)
    assert sample_range(torch.zeros(0, 4), torch.zeros(8, 4), None, 0, 8).shape == (0,)


def test_opcheck():
    hidden, base, new = head(5)
    lo, hi, rest = per_row(5, 1200, 7)
    numbers, rows = native._parameters(lo, hi, *rest.values(), None), ()
    torch.library.opcheck(torch.ops.mmpt.sample_range.default, (hidden, base, new, 0.0, *numbers, *rows))
    torch.library.opcheck(torch.ops.mmpt.sample_logits.default, (torch.randn(5, 1200), *numbers))


def test_compiled_equals_eager():
    hidden, base, new = head(5)
    lo, hi, rest = per_row(5, 1200, 8)

    def run(h):
        return sample_range(h + 1, base, new, lo, hi, **rest)

    assert torch.equal(torch.compile(run, fullgraph=True, backend="aot_eager")(hidden), run(hidden))


def test_a_range_wider_than_max_range_is_named():
    with pytest.raises(ValueError, match="row 1 allows 9 ids, max_range is 8"):
        native.sample_logits(torch.zeros(2, 20), torch.tensor([0, 1]), torch.tensor([8, 10]), max_range=8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [32, 45])
def test_a_logit_has_the_same_bits_in_any_batch(instruction_set, dtype, width):
    """Rows of the head that differ in the last bits only: which is the largest hangs on the order of summation."""
    torch.manual_seed(3)
    hidden = torch.randn(23, width)
    order = torch.stack([torch.randperm(width) for _ in range(300)])
    row = torch.randn(width).to(dtype)
    rows, hidden = row[order], hidden[:, :1].expand(-1, width)  # sums of the same terms in another order
    together = sample_range(hidden, rows, None, 0, 300)
    alone = torch.cat([sample_range(one[None], rows, None, 0, 300) for one in hidden])
    assert torch.equal(together, alone) and len(set(together.tolist())) > 1
