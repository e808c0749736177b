"""The CUDA kernels and the code that launches them, run on the CPU thread by thread, against the CPU operations.

What this cannot show (races, speed, cuBLAS) is test_cuda.py's, which needs a GPU.
"""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmpt.ops import native
from mmpt.ops.native import linear_cross_entropy
from tests.ops.native.cuda_on_cpu.build import build
from tests.ops.native.test_linear_cross_entropy import (
    backward_arguments,
    distances,
    gradients,
    loss_arguments,
    problem,
    torch_exact,
    torch_path,
)
from tests.ops.native.test_sampling import head, per_row

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    shared = os.environ.get("MMPT_EMULATED_FOLDER")  # of an earlier build, to compile less
    build(Path(shared) if shared else tmp_path_factory.mktemp("cuda_on_cpu"))
    return torch.ops.mmpt_on_cpu


def both(emulated, name, *arguments):
    return getattr(emulated, name)(*arguments), getattr(torch.ops.mmpt, name)(*arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": "sum", "softcap": 2.0},
        {"reduction": "none"},
        {"label_smoothing": 0.1, "z_loss": 0.01},
        {"lo": 3, "hi": 80},
        {"num_items": 7.0},
        {"max_valid": 40},
        {"want": (False, False, True)},
        {"want": (True, False, False)},
        {"want": (False, False, False)},
    ],
)
def test_loss_statistics_and_gradients_equal_the_cpus(emulated, dtype, options):
    data = list(problem(50, 24, 70, 31, dtype, ignored=range(0, 50, 3)))
    if "lo" in options:
        data[1] = torch.where(data[1] >= 0, data[1].clamp(3, 79), data[1])
    group = torch.arange(50) % 3
    for ours, right in zip(
        *both(
            emulated,
            "linear_cross_entropy",
            *loss_arguments(data, group=group, num_groups=4, token_weight=torch.linspace(0.5, 2, 50), **options),
        ),
        strict=True,
    ):
        torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-6)


# A row of 1,100 fp32 logits in shared memory of so many bytes: a cluster of 2, of 8 that keep their slices, of 8 that
# read them again, and of 8 of which two have nothing.
@pytest.mark.parametrize(
    "shared,v0,t", [(4096 + 5000, 900, 200), (4096 + 1200, 900, 200), (4096 + 400, 900, 200), (4096 + 600, 300, 31)]
)
@pytest.mark.parametrize(
    "options", [{}, {"reduction": "none", "want": (False, False, True)}, {"label_smoothing": 0.1, "z_loss": 0.01}]
)
def test_a_cluster_of_blocks_shares_a_row(emulated, monkeypatch, shared, v0, t, options):
    monkeypatch.setenv("MMPT_EMULATED_SHARED", str(shared))
    data = list(problem(7, 12, v0, t, torch.float32, ignored=(2,)))
    lo = (data[1] - 290).clamp(min=0)
    hi = (data[1] + 1 + torch.arange(7) * 50).clamp(1, v0 + t)
    for ranges in ({}, {"row_lo": lo, "row_hi": hi}):
        pairs = both(emulated, "linear_cross_entropy", *loss_arguments(data, **options, **ranges))
        for ours, right in zip(*pairs, strict=True):
            torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-6)
    data[0][1] = torch.nan
    assert torch.isnan(emulated.linear_cross_entropy(*loss_arguments(data))[0])


@pytest.mark.parametrize("n,v0,t", [(1, 1, 0), (33, 5, 64), (40, 129, 1), (40, 0, 7)])
def test_odd_sizes_and_row_ranges(emulated, n, v0, t):
    data = list(problem(n, 5, v0, t, torch.float32, ignored=()))
    lo = (data[1] - torch.arange(n) % 3).clamp(min=0)
    hi = (data[1] + 1 + torch.arange(n) % 5).clamp(max=v0 + t)
    for ours, right in zip(
        *both(emulated, "linear_cross_entropy", *loss_arguments(data, row_lo=lo, row_hi=hi)), strict=True
    ):
        torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-6)


def test_the_backward_of_none(emulated):
    data = problem(50, 24, 70, 31, torch.float32)
    arguments = backward_arguments(data, torch.linspace(-1, 1, 50), label_smoothing=0.1)
    for ours, right in zip(*both(emulated, "linear_cross_entropy_backward", *arguments), strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-6)


def test_an_empty_batch(emulated):
    hidden, labels, base, new = problem(1, 5, 7, 3, torch.float32)
    data = hidden[:0], labels[:0], base, new
    for part in emulated.linear_cross_entropy(*loss_arguments(data)):
        assert not part.any()
    numbers = (-100, 0, -1, None, None, None, 0.0, 0.0, 0.0, None, True, True, True)
    back = emulated.linear_cross_entropy_backward(*data, hidden[:0, 0], hidden[:0, 0], *numbers)
    assert [tuple(one.shape) for one in back] == [(0, 5), (7, 5), (3, 5)] and not any(one.any() for one in back)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    "change,options",
    [
        ((1, 17), {}),
        ((1, -1), {}),
        (None, {"max_valid": 5}),
        (None, {"max_valid": 0}),
        (None, {"lo": 3, "hi": 9}),
        (None, {"group": torch.arange(23), "num_groups": 21}),
        (None, {"group": torch.arange(23) - 2, "num_groups": 23}),
    ],
)
def test_what_the_cpu_refuses_is_a_nan_loss_and_no_finite_gradient(emulated, change, options, reduction):
    """A finite one beside the NaN would be a step of the optimizer in a direction that means nothing."""
    hidden, labels, base, new = problem(dtype=torch.float32)
    if change:
        labels[change[0]] = change[1]
    data = hidden, labels, base, new
    with pytest.raises(ValueError):
        torch.ops.mmpt.linear_cross_entropy(*loss_arguments(data, reduction, **options))
    loss, _, lse, *_, d_hidden, d_base, d_new = emulated.linear_cross_entropy(
        *loss_arguments(data, reduction, **options)
    )
    assert torch.isnan(loss).any() and not loss[torch.isfinite(loss)].any()
    lo, hi = options.get("lo", 0), options.get("hi", 17)
    assert torch.isnan(torch.cat([d_base, d_new])[lo:hi]).all()
    assert torch.isnan(d_hidden).any() and not d_hidden[torch.isfinite(d_hidden)].any()
    if reduction == "none" and "group" not in options:
        back = emulated.linear_cross_entropy_backward(
            *data,
            lse,
            torch.ones(23),
            -100,
            lo,
            options.get("hi", -1),
            None,
            None,
            None,
            0.0,
            0.0,
            0.0,
            options.get("max_valid"),
            True,
            True,
            True,
        )
        assert torch.isnan(back[0]).any() and torch.isnan(torch.cat(back[1:])).any()


def test_one_supervised_row_that_is_wrong_is_no_finite_gradient(emulated):
    hidden, labels, base, new = problem(dtype=torch.float32, ignored=range(22))
    labels[22] = 17
    *_, d_hidden, d_base, d_new = emulated.linear_cross_entropy(*loss_arguments((hidden, labels, base, new)))
    assert torch.isnan(d_hidden[22]).all() and torch.isnan(d_base).all() and torch.isnan(d_new).all()


@pytest.fixture
def chunks(monkeypatch):
    """Chunks of 128 rows, however few columns there are."""
    monkeypatch.setenv("MMPT_EMULATED_CHUNK", "1")


@pytest.mark.parametrize(
    "dtype,options",
    [
        (torch.float32, {}),
        (torch.float16, {}),
        (torch.bfloat16, {}),
        (torch.bfloat16, {"lo": 3, "hi": 450}),
        (torch.bfloat16, {"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 3.0}),
        (torch.bfloat16, {"want": (False, True, False)}),
    ],
)
def test_chunks_add_up(emulated, chunks, dtype, options):
    data = list(problem(140, 24, 400, 200, dtype, scale=0.5))
    data[1] = torch.where(data[1] >= 0, data[1].clamp(3, 449), data[1])
    for ours, right in zip(*both(emulated, "linear_cross_entropy", *loss_arguments(data, **options)), strict=True):
        assert ours.dtype == right.dtype
        near = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-3}
        torch.testing.assert_close(ours, right, **near)


class Emulated(torch.autograd.Function):
    """The emulated loss with its gradients, as native.py wires the real one."""

    @staticmethod
    def forward(ctx, emulated, hidden, labels, base, new, options):
        loss, *_, d_hidden, d_base, d_new = emulated.linear_cross_entropy(
            *loss_arguments((hidden, labels, base, new), **options)
        )
        ctx.grads = d_hidden, d_base, d_new
        ctx.dtypes = hidden.dtype, base.dtype, new.dtype
        return loss

    @staticmethod
    def backward(ctx, upstream):
        d_hidden, d_base, d_new = (
            (grad * upstream).to(dtype) for grad, dtype in zip(ctx.grads, ctx.dtypes, strict=True)
        )
        return None, d_hidden, None, d_base, d_new, None


# Rows of more and of fewer packs than a block has threads, tails on both segments, one chunk and two of them.
@pytest.mark.parametrize(
    "shape,dtype",
    [
        ((24, 64, 3000, 1100), torch.bfloat16),
        ((12, 50, 9001, 300), torch.bfloat16),
        ((160, 32, 700, 77), torch.bfloat16),
        ((12, 50, 9001, 300), torch.float16),
    ],
)
def test_error_of_16_bits_is_at_most_twice_that_of_torch(emulated, chunks, shape, dtype):
    hidden, labels, base, new = problem(*shape, dtype, ignored=(0, 3, 4), scale=0.7)
    exact = gradients(torch_exact, hidden.double(), labels, base.double(), new.double())
    theirs = distances(gradients(torch_path, hidden, labels, base, new), exact)

    def run(h, y, b, n):
        return Emulated.apply(emulated, h, y, b, n, {})

    ours = distances(gradients(run, hidden, labels, base, new), exact)
    for name, mine, other in zip(("loss", "d_hidden", "d_base", "d_new"), ours, theirs, strict=True):
        assert mine <= 2 * other + 1e-5, f"{name}: {mine} against {other}"


@pytest.mark.parametrize("shared", [4096 + 1200, 4096 + 600])
def test_16_bits_in_a_cluster(emulated, monkeypatch, shared):
    monkeypatch.setenv("MMPT_EMULATED_SHARED", str(shared))
    data = problem(9, 16, 900, 200, torch.bfloat16, ignored=(2,))
    pairs = both(emulated, "linear_cross_entropy", *loss_arguments(data))
    for ours, right in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, right, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("device", ["cpu", "cuda on cpu"])
def test_a_mean_in_float16_keeps_its_small_gradients(request, device):
    """1 / N of a small probability is 0 in float16 unless it is scaled before it is stored, as a GradScaler does."""
    items, scaler = 100_000.0, torch.tensor(65536.0)

    def run(h, y, b, n):
        return linear_cross_entropy(h, y, b, n, num_items=items)

    if device != "cpu":
        emulated = request.getfixturevalue("emulated")

        def run(h, y, b, n):
            return Emulated.apply(emulated, h, y, b, n, {"num_items": items})

    hidden, labels, base, new = problem(30, 16, 300, 60, torch.float16, scale=0.5)

    def mean(h, y, b, n):
        return F.cross_entropy(h @ torch.cat([b, n]).T, y, reduction="sum") / items

    exact = gradients(mean, hidden.double(), labels, base.double(), new.double(), scaler.double())
    ours = gradients(run, hidden, labels, base, new, scaler)
    assert [one.dtype for one in ours[1:]] == [torch.float16] * 3
    assert max(distances(ours[1:], exact[1:])) < 2e-3


def test_largest_logits_are_found_wherever_they_lie(emulated):
    """correct of targets that tie with lower and with higher ids, in packs that are wholly allowed and in others."""
    base, new = torch.zeros(5000, 1), torch.zeros(3000, 1)
    places = [0, 1, 7, 8, 4095, 4096, 4999, 5000, 5001, 5007, 5008, 7999]
    base[[i for i in places if i < 5000]] = 2.0
    new[[i - 5000 for i in places if i >= 5000]] = 2.0
    for first, place in enumerate(places):
        lo = torch.full((2,), place if first % 2 else 0)
        hi = torch.full((2,), 8000)
        data = torch.ones(2, 1), torch.tensor([place, min(place + 1, 7999)]), base, new
        pair = both(emulated, "linear_cross_entropy", *loss_arguments(data, row_lo=lo, row_hi=hi, want=(False,) * 3))
        assert torch.equal(pair[0][3], pair[1][3])


def test_backward_of_none_knows_how_many_rows_there_are(emulated):
    hidden, labels, base, new = problem(50, 24, 70, 31, torch.float32)
    lse = torch.logsumexp(hidden @ torch.cat([base, new]).T, 1)
    rest = (-100, 0, -1, None, None, None, 0.0, 0.0, 0.0)
    counted, given = (
        emulated.linear_cross_entropy_backward(
            hidden, labels, base, new, lse, torch.ones(50), *rest, most, True, True, True
        )
        for most in (None, 46)
    )
    assert all(torch.equal(a, b) for a, b in zip(counted, given, strict=True))
    hidden.requires_grad_()
    loss = linear_cross_entropy(hidden, labels, base, new, reduction="none", max_valid=46)
    assert loss.grad_fn is not None and loss.grad_fn.rest[1][-1] == 46


def test_nothing_supervised(emulated):
    data = problem(dtype=torch.float32, ignored=range(23))
    for part in emulated.linear_cross_entropy(*loss_arguments(data)):
        assert not part.any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("without", [(), ("top_k",), ("top_p",), ("top_k", "top_p")])
def test_draws_equal_the_cpus(emulated, seed, without):
    lo, hi, rest = per_row(30, 1200, seed)
    rest = {name: (0 if name == "top_k" else 1.0) if name in without else value for name, value in rest.items()}
    lo[::2], hi[::2] = 850, 1000
    arguments = native._parameters(lo, hi, *rest.values(), None)
    ties = torch.randint(0, 12, (30, 1200), generator=torch.Generator().manual_seed(seed)) / 4
    for logits in (ties, torch.randn(30, 1200), torch.randn(30, 1200).bfloat16()):
        ours, right = both(emulated, "sample_logits", logits, *arguments)
        assert torch.equal(ours, right)
    hidden, base, new = head(30, seed=seed)
    ours, right = both(emulated, "sample_range", hidden, base, new, 3.0 * (seed % 2), *arguments)
    assert torch.equal(ours, right)


def test_a_row_that_cannot_be_drawn_is_minus_one(emulated):
    logits = torch.zeros(5, 8)
    logits[1, 2] = torch.nan
    logits[4] = -torch.inf
    lo, hi = torch.tensor([0, 0, 5, 0, 2]), torch.tensor([8, 8, 5, 9, 8])
    numbers = native._parameters(lo, hi, None, 1.0, 0, 0.9, 7, 0, None)
    assert emulated.sample_logits(logits, *numbers).tolist()[1:] == [-1, -1, -1, 2]


@pytest.mark.parametrize("how", [{"lo": 5, "hi": 5, "max_range": 0}, {"lo": 5, "hi": 4}, {"max_range": 3}])
def test_a_range_without_ids_is_minus_one_and_no_failed_launch(emulated, how):
    arguments = {
        "lo": 0,
        "hi": 8,
        "extra_id": None,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "seed": 7,
        "offset": 0,
        "max_range": None,
    }
    numbers = native._parameters(*(arguments | how).values())
    hidden, base = torch.ones(3, 4), torch.zeros(8, 4)
    assert emulated.sample_range(hidden, base, None, 0.0, *numbers).tolist() == [-1] * 3
    assert emulated.sample_logits(torch.zeros(3, 8), *numbers).tolist() == [-1] * 3


NONSENSE = {
    "temperature": (-0.5, float("nan"), float("inf")),
    "top_k": (-2,),
    "top_p": (0.0, -1.0, 1.5, float("nan")),
}


@pytest.mark.parametrize("name,value", [(name, value) for name, values in NONSENSE.items() for value in values])
def test_a_parameter_without_meaning_draws_no_id(emulated, name, value):
    """As a number it is an error; as a tensor it is -1, and never an id that the next embedding would look up."""
    good = {
        "lo": 0,
        "hi": 40,
        "extra_id": None,
        "temperature": 1.0,
        "top_k": 3,
        "top_p": 0.9,
        "seed": 7,
        "offset": 0,
        "max_range": None,
    }
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    for operation in (emulated.sample_logits, torch.ops.mmpt.sample_logits):
        with pytest.raises(ValueError, match=f"{name} {str(value).replace('.0', '')}"):
            operation(logits, *native._parameters(*(good | {name: value}).values()))
    rows = torch.tensor([good[name], value, good[name]])
    ids = emulated.sample_logits(logits, *native._parameters(*(good | {name: rows}).values()))
    assert ids[1] == -1 and (ids[[0, 2]] >= 0).all()


def test_infinite_and_huge_scores_draw_an_id_of_the_range(emulated):
    logits = torch.zeros(4, 40)
    logits[0, 5], logits[1], logits[2, 3] = torch.inf, -torch.inf, 3e38
    for how in ({}, {"top_p": 0.5}, {"top_k": 2}, {"top_k": 2, "top_p": 0.5}, {"temperature": 1e-30}):
        good = {
            "lo": 0,
            "hi": 40,
            "extra_id": None,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "seed": 7,
            "offset": 0,
            "max_range": None,
        }
        ours, right = both(emulated, "sample_logits", logits, *native._parameters(*(good | how).values()))
        assert torch.equal(ours, right), how


@pytest.mark.parametrize("batch", [1, 2, 9, 30])
def test_draws_of_a_wide_head_equal_the_cpus(emulated, batch):
    """More tiles of ids than blocks in a wave, hidden rows that lie 16-byte aligned and such that do not."""
    hidden, base, new = head(batch, h=72, dtype=torch.bfloat16)
    for rows in (hidden, torch.cat([hidden, hidden[:, :1]], 1)[:, :72]):
        numbers = native._parameters(3, 1190, None, 0.8, 50, 0.9, torch.arange(batch), 5, None)
        ours, right = both(emulated, "sample_range", rows, base, new, 0.0, *numbers)
        assert torch.equal(ours, right)


@pytest.mark.parametrize("new_rows", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("batch", [1, 9, 70])
def test_draws_by_tensor_cores_equal_the_cpus(emulated, batch, new_rows):
    """One range of all rows, two of one width, ranges of their own, extra ids; new rows in fp32 take the other way."""
    hidden, base, new = head(batch, h=288 if batch == 9 else 64, dtype=torch.bfloat16)
    new = new.to(new_rows)
    seed = torch.arange(batch)
    lo, hi, rest = per_row(batch, 1200, 3)
    two = torch.where(seed % 2 == 0, 3, 850), torch.where(seed % 2 == 0, 90, 937)
    for numbers in (
        native._parameters(3, 1190, 1195, 0.8, 0, 0.9, seed, 5, None),
        native._parameters(*two, 2, 0.8, 0, 1.0, seed, 5, None),
        *([native._parameters(lo, hi, *rest.values(), None)] if batch < 10 else []),
    ):
        ours = emulated.sample_range(hidden, base, new, 0.0, *numbers, True)
        assert torch.equal(ours, torch.ops.mmpt.sample_range(hidden, base, new, 0.0, *numbers))


def test_a_row_by_tensor_cores_draws_the_same_alone_and_in_tiles_of_any_size(emulated, monkeypatch):
    hidden, base, new = head(70, h=96, dtype=torch.float16)
    hidden = torch.cat([hidden, hidden[:, :1]], 1)[:, :96]  # rows that are not 16-byte aligned
    draw = lambda rows: emulated.sample_range(  # noqa: E731  (one expression)
        hidden[rows],
        base,
        new,
        3.0,
        *native._parameters(5, 1190, None, 1.0, 0, 1.0, torch.arange(70)[rows], 5, None),
        True,
    )
    together = draw(slice(None))
    assert torch.equal(torch.cat([draw(slice(i, i + 1)) for i in range(60, 70)]), together[60:])
    monkeypatch.setenv("MMPT_EMULATED_SHARED", str(64 << 10))  # no room for tiles of 64 ids
    assert torch.equal(draw(slice(None)), together)


@pytest.mark.parametrize(
    "dtype,new_rows,width,by_them",
    [
        (torch.bfloat16, torch.bfloat16, 64, True),
        (torch.bfloat16, torch.float32, 64, True),
        (torch.float32, torch.float32, 64, False),
        (torch.bfloat16, torch.bfloat16, 72, False),
    ],
)
def test_tensor_cores_take_what_they_can(emulated, monkeypatch, dtype, new_rows, width, by_them):
    hidden, base, new = head(3, h=width, dtype=dtype)
    numbers = native._parameters(3, 800, None, 0.0, 0, 1.0, 0, 0, None)
    monkeypatch.setenv("MMPT_EMULATED_TENSOR_CORES", "0")  # their products are 0 then, and the lowest id is drawn
    ids = emulated.sample_range(hidden, base, new.to(new_rows), 0.0, *numbers, True)
    assert (ids.tolist() == [3, 3, 3]) == by_them


@pytest.mark.parametrize(
    "rows,dimensions,multiprocessors,step",
    [
        (1_000_000, 4096, 132, 2048),
        (1_000_000, 1024, 132, 2816),
        (16_384, 4096, 132, 2048),
        (100, 4096, 132, 128),
        (0, 64, 132, 128),
        (1, 1, 1, 128),
    ],
)
def test_a_chunk_fills_the_multiprocessors(rows, dimensions, multiprocessors, step):
    row_bytes = 164_096 * 2
    assert native.kernels.chunk_rows(rows, dimensions, row_bytes, multiprocessors) == step
