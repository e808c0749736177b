"""Draws by a screen are the draws without one, to the bit: over dtypes, batches, ranges, filters and spoilt weights."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpt import ops
from mmpt.ops import native
from mmpt.ops.native import sample_range, screen
from tests.ops.native.test_sampling import head, per_row


def drawn(hidden, base, new, lo, hi, **how):
    """ids, or what was wrong."""
    try:
        return sample_range(hidden, base, new, lo, hi, **how).tolist()
    except ValueError as error:
        return str(error)


def assert_same(hidden, base, new, lo, hi, **how):
    assert drawn(hidden, base, new, lo, hi, screen=screen(base, new), **how) == drawn(hidden, base, new, lo, hi, **how)


WIDE = {
    "greedy": {},
    "noise": {"temperature": 1.0},
    "cold": {"temperature": 0.2},
    "top_k": {"temperature": 1.0, "top_k": 20},
    "top_p": {"temperature": 1.0, "top_p": 0.5},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 9, 33, 70])
def test_a_wide_range_gives_the_same_ids(instruction_set, dtype, batch):
    hidden, base, new = head(batch, h=75, v0=5000, t=800, dtype=dtype)
    for how in WIDE.values():
        assert_same(hidden, base, new, 37, 5500, extra_id=5700, seed=torch.arange(batch), offset=3, **how)


@pytest.mark.parametrize("seed", range(4))
def test_every_row_may_ask_for_something_else(instruction_set, seed):
    hidden, base, new = head(40, h=(16, 64, 130)[seed % 3], seed=seed)
    lo, hi, rest = per_row(40, 1200, seed)
    lo[::3], hi[::3] = 100, 1100
    rest["top_p"][::2] = 1.0
    rest["temperature"][::7] = 1e-9
    assert_same(hidden, base, new.bfloat16() if seed % 2 else new, lo, hi, **rest)


def near(values, share, seed):
    """Rows that differ from one another by little: bounds decide nothing, products must."""
    g = torch.Generator().manual_seed(seed)
    return values[:1] + share * torch.randn(values.shape, generator=g)


def spoilt(kind, base, hidden):
    """Weights and hidden rows of one adverse kind."""
    g = torch.Generator().manual_seed(7)
    some = torch.randperm(len(base), generator=g)[: len(base) // 3]
    both_ways = torch.where(torch.arange(base.shape[1]) % 16 == 0, 1e38, -1e38)
    change = {
        "outlying channel": lambda: (base[:, 5].mul_(60), hidden[:, 5].mul_(80)),
        "outlying hidden channel": lambda: hidden[:, 3].mul_(500),
        "zeros": lambda: base.index_fill_(0, some, 0),
        "all zeros": lambda: base.zero_(),
        "zero hidden row": lambda: hidden[1].zero_(),
        "equal rows": lambda: base.copy_(base[torch.randint(0, 40, (len(base),), generator=g)]),
        "equal rows of the best": lambda: base.index_copy_(0, some, (hidden[0] * 3).expand(len(some), -1)),
        "nearly equal rows": lambda: base.copy_(near(base, 1e-3, 1)),
        "hardly different rows": lambda: base.copy_(near(base, 1e-6, 1)),
        "huge rows": lambda: base.index_copy_(0, some[:3], base[some[:3]] * 1e30),
        "a product that overflows both ways": lambda: base[some[0]].copy_(both_ways * hidden.mul_(100)[0].sign()),
        "infinite rows": lambda: base.index_fill_(0, some[:2], math.inf),
        "negative infinite rows": lambda: base.index_fill_(0, some[:2], -math.inf),
        "NaN": lambda: base[some[0]].fill_(math.nan),
        "NaN hidden row": lambda: hidden[2].fill_(math.nan),
        "tiny": lambda: (base.mul_(1e-30), hidden.mul_(1e-9)),
        "under the smallest": lambda: base.mul_(1e-42),
        "huge hidden": lambda: hidden.mul_(1e20),
    }[kind]
    change()


KINDS = [
    "outlying channel",
    "outlying hidden channel",
    "zeros",
    "all zeros",
    "zero hidden row",
    "equal rows",
    "equal rows of the best",
    "nearly equal rows",
    "hardly different rows",
    "huge rows",
    "a product that overflows both ways",
    "infinite rows",
    "negative infinite rows",
    "NaN",
    "NaN hidden row",
    "tiny",
    "under the smallest",
    "huge hidden",
]


@pytest.mark.parametrize("kind", KINDS)
def test_spoilt_weights_give_the_same_ids_or_the_same_error(instruction_set, kind):
    hidden, base, new = head(5, h=32, v0=2000, t=300)
    spoilt(kind, base, hidden)
    for how in WIDE.values():
        assert_same(hidden, base, new, 0, 2100, extra_id=2200, seed=torch.arange(5), **how)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_range_of_any_head_gives_the_same_ids(data):
    def number(*bounds):
        return data.draw(st.integers(*bounds))

    v0, t, h, batch = number(1, 700), number(0, 300), number(1, 70), number(1, 20)
    hidden, base, new = head(batch, h, v0, t, seed=number(0, 99))
    step = data.draw(st.sampled_from([0, 0, 0.25, 1.0]))  # few values: ties
    if step:
        hidden, base, new = ((x / step).round() * step for x in (hidden, base, new))
    lo = number(0, v0 + t - 1)
    assert_same(
        hidden,
        base,
        new if t else None,
        lo,
        number(lo + 1, v0 + t),
        extra_id=number(-1, v0 + t - 1),
        temperature=data.draw(st.sampled_from([0.0, 0.1, 1.0, 30.0])),
        top_k=number(0, 9),
        seed=number(0, 2**40),
    )


def test_among_equal_rows_the_lowest_id_wins():
    hidden = torch.ones(1, 64)
    base = torch.full((9000, 64), -1.0)
    base[[8001, 4321, 700]] = 1.0
    assert sample_range(hidden, base, None, 0, 9000, screen=screen(base, None)).item() == 700
    assert sample_range(hidden, base, None, 701, 9000, screen=screen(base, None)).item() == 4321


def test_a_bound_holds_and_is_not_far_above_the_error():
    """codes times scale are within bound of the row, as a length: a bound of twice as much would let in too many."""
    base = head(1, h=100, v0=600)[1]
    made = screen(base, None)
    codes = made.codes.reshape(-1, 128 // 4, 16, 4).permute(0, 2, 1, 3).reshape(len(made.codes), 128)
    error = (base.double() - (codes[:600, :100].double() - 128) * made.scale[:600, None].double()).norm(dim=1)
    assert (error <= made.bound[:600]).all() and (made.bound[:600] <= 1.1 * error).all()
    assert (codes[:, 100:] == 128).all() and (codes[600:] == 128).all()


def test_a_screen_of_another_head_is_refused():
    hidden, base, new = head(2)
    with pytest.raises(ValueError, match=r"the screen is \[1024, 64\], that of this head would be \[1280, 64\]"):
        sample_range(hidden, base, new, 0, 9, screen=screen(base, None))
    made = native.Screen(*(x.double() for x in vars(screen(base, new)).values()))
    with pytest.raises(ValueError, match="not what mmpt::screen made"):
        sample_range(hidden, base, new, 0, 9, screen=made)


def test_a_softcap_is_drawn_without_it():
    hidden, base, new = head(9)
    assert_same(hidden, base, new, 0, 1200, softcap=2.0, temperature=1.0)


def test_a_screen_is_offered_where_bytes_multiply_fast():
    base = torch.zeros(8, 4)
    for name, offered in (("generic", False), ("avx2", False), ("amx", True)):
        if native.kernels.select_instruction_set(name):
            assert (ops.screen(base, None) is not None) == offered
    native.kernels.select_instruction_set("")
    ops.use("reference")
    assert ops.screen(base, None) is None
    ops.use("compiled")


def test_opcheck():
    hidden, base, new = head(5)
    lo, hi, rest = per_row(5, 1200, 7)
    torch.library.opcheck(torch.ops.mmpt.screen.default, (base, new))
    made = vars(screen(base, new)).values()
    numbers = native._parameters(lo, hi, *rest.values(), None)
    torch.library.opcheck(torch.ops.mmpt.sample_screened.default, (hidden, base, new, *made, *numbers))
