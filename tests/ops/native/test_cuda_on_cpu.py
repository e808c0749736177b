"""The CUDA kernels and the code that launches them, run on the CPU thread by thread, against the CPU operations.

What this cannot show (races, speed, cuBLAS) is test_cuda.py's, which needs a GPU.
"""

import pytest
import torch

from mmpt.ops import native
from tests.ops.native.cuda_on_cpu.build import build
from tests.ops.native.test_linear_cross_entropy import problem
from tests.ops.native.test_sampling import head, per_row

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    build(tmp_path_factory.mktemp("cuda_on_cpu"))
    return torch.ops.mmpt_on_cpu


def both(emulated, name, *arguments):
    return getattr(emulated, name)(*arguments), getattr(torch.ops.mmpt, name)(*arguments)


def loss_arguments(data, reduction="mean", want=(True, True, True), **options):
    hidden, labels, base, new = data
    rows = {"lo": 0, "hi": -1, "row_lo": None, "row_hi": None, "group": None, "num_groups": 0, "token_weight": None,
            "softcap": 0.0, "z_loss": 0.0, "label_smoothing": 0.0}  # fmt: skip
    rows.update(options)
    tail = (options.get("num_items"), options.get("max_valid"))
    rows.pop("num_items", None), rows.pop("max_valid", None)
    return (hidden, labels, base, new, -100, *rows.values(), reduction, *tail, *want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [
    {}, {"reduction": "sum", "softcap": 2.0}, {"reduction": "none"}, {"label_smoothing": 0.1, "z_loss": 0.01},
    {"lo": 3, "hi": 80}, {"num_items": 7.0}, {"max_valid": 40}, {"want": (False, False, True)},
    {"want": (True, False, False)}, {"want": (False, False, False)},
])  # fmt: skip
def test_loss_statistics_and_gradients_equal_the_cpus(emulated, dtype, options):
    data = list(problem(50, 24, 70, 31, dtype, ignored=range(0, 50, 3)))
    if "lo" in options:
        data[1] = torch.where(data[1] >= 0, data[1].clamp(3, 79), data[1])
    group = torch.arange(50) % 3
    for ours, right in zip(*both(emulated, "linear_cross_entropy", *loss_arguments(
            data, group=group, num_groups=4, token_weight=torch.linspace(0.5, 2, 50), **options)), strict=True):  # fmt: skip
        torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-6)


# A row of 1,100 fp32 logits in shared memory of so many bytes: a cluster of 2, of 8 that keep their slices, of 8 that
# read them again, and of 8 of which two have nothing.
@pytest.mark.parametrize("shared,v0,t", [(4096 + 5000, 900, 200), (4096 + 1200, 900, 200), (4096 + 400, 900, 200), (4096 + 600, 300, 31)])
@pytest.mark.parametrize("options", [{}, {"reduction": "none", "want": (False, False, True)}, {"label_smoothing": 0.1, "z_loss": 0.01}])
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


@pytest.mark.parametrize("n,v0,t", [(1, 1, 0), (130, 5, 64), (40, 129, 1), (200, 0, 7)])
def test_odd_sizes_and_row_ranges(emulated, n, v0, t):
    data = list(problem(n, 5, v0, t, torch.float32, ignored=()))
    lo = (data[1] - torch.arange(n) % 3).clamp(min=0)
    hi = (data[1] + 1 + torch.arange(n) % 5).clamp(max=v0 + t)
    for ours, right in zip(*both(emulated, "linear_cross_entropy", *loss_arguments(data, row_lo=lo, row_hi=hi)), strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-6)


def test_the_backward_of_none(emulated):
    hidden, labels, base, new = problem(50, 24, 70, 31, torch.float32)
    lse = torch.logsumexp(hidden @ torch.cat([base, new]).T, 1)
    arguments = (hidden, labels, base, new, lse, torch.linspace(-1, 1, 50), -100, 0, -1, None, None, None, 0.0, 0.0, 0.1, True, True, True)
    for ours, right in zip(*both(emulated, "linear_cross_entropy_backward", *arguments), strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-6)


def test_an_empty_batch(emulated):
    hidden, labels, base, new = problem(1, 5, 7, 3, torch.float32)
    data = hidden[:0], labels[:0], base, new
    for part in emulated.linear_cross_entropy(*loss_arguments(data)):
        assert not part.any()
    numbers = (-100, 0, -1, None, None, None, 0.0, 0.0, 0.0, True, True, True)
    back = emulated.linear_cross_entropy_backward(*data, hidden[:0, 0], hidden[:0, 0], *numbers)
    assert [tuple(one.shape) for one in back] == [(0, 5), (7, 5), (3, 5)] and not any(one.any() for one in back)


def test_what_the_cpu_refuses_is_a_nan_loss(emulated):
    hidden, labels, base, new = problem(dtype=torch.float32)
    for change, options in (((1, 17), {}), (None, {"max_valid": 5})):
        wrong = labels.clone()
        if change:
            wrong[change[0]] = change[1]
        loss = emulated.linear_cross_entropy(*loss_arguments((hidden, wrong, base, new), **options))[0]
        assert torch.isnan(loss)


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
