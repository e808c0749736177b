"""The CUDA operations on a GPU: against float64 and the CPU, without waiting for the device, and in captured graphs."""

import math

import pytest
import torch

from mmpt.ops import native
from mmpt.ops.native import linear_cross_entropy, sample_logits, sample_range
from tests.ops.native.test_linear_cross_entropy import (
    distances,
    gradients,
    loss_arguments,
    problem,
    torch_exact,
    torch_path,
)
from tests.ops.native.test_sampling import head, per_row

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def on_gpu(*tensors):
    return tuple(t.cuda() for t in tensors)


@pytest.fixture
def no_waiting():
    """Any wait for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def test_gradcheck():
    hidden, labels, base, new = on_gpu(*problem())
    leaves = [x.requires_grad_() for x in (hidden, base, new)]
    for options in ({}, {"softcap": 3.0, "z_loss": 0.05, "label_smoothing": 0.1}, {"reduction": "none"}):

        def run(h, b, n, options=options):
            return linear_cross_entropy(h, labels, b, n, **options)

        assert torch.autograd.gradcheck(run, leaves)


# 164,021 = 151,669 + 12,352 needs clusters of 4 blocks in bf16 and of 8 in fp32; the small ones need none.
@pytest.mark.parametrize("shape", [(200, 64, 3000, 1100), (90, 40, 2001, 300), (48, 128, 151_669, 12_352)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_error_is_at_most_twice_that_of_torch(shape, dtype):
    hidden, labels, base, new = on_gpu(*problem(*shape, dtype, scale=0.7))
    exact = gradients(torch_exact, hidden.double(), labels, base.double(), new.double())
    theirs = distances(gradients(torch_path, hidden, labels, base, new), exact)
    ours = distances(gradients(linear_cross_entropy, hidden, labels, base, new), exact)
    for name, mine, other in zip(("loss", "d_hidden", "d_base", "d_new"), ours, theirs, strict=True):
        assert mine <= 2 * other + 1e-5, f"{name}: {mine} against {other}"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": "none"},
        {"reduction": "sum", "softcap": 3.0},
        {"label_smoothing": 0.1, "z_loss": 1e-2},
        {"column_range": (3, 400)},
        {"column_range": "rows"},
        {"num_items": 7},
        {"max_valid": 70},
    ],
)
def test_equals_the_cpu(options):
    options = dict(options)
    hidden, labels, base, new = problem(90, 33, 300, 150, torch.float32, range(0, 90, 3))
    if options.get("column_range") == (3, 400):
        labels = torch.where(labels >= 0, labels.clamp(3, 399), labels)
    if options.get("column_range") == "rows":
        options["column_range"] = (labels - 2).clamp(min=0), (labels + 9).clamp(1, 450)
    up = torch.linspace(-1, 2, 90) if options.get("reduction") == "none" else None
    right = gradients(linear_cross_entropy, hidden, labels, base, new, up, **options)
    moved = {k: on_gpu(*v) if k == "column_range" and torch.is_tensor(v[0]) else v for k, v in options.items()}
    ours = gradients(linear_cross_entropy, *on_gpu(hidden, labels, base, new), up if up is None else up.cuda(), **moved)
    for a, b in zip(ours, right, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=2e-4, atol=2e-5)


def test_statistics_equal_the_cpus():
    hidden, labels, base, new = problem(90, 40, 300, 150, torch.float32, range(0, 90, 3))
    group = torch.arange(90) % 4
    right = linear_cross_entropy(hidden, labels, base, new, group=group, num_groups=5, return_stats=True)
    ours = linear_cross_entropy(*on_gpu(hidden, labels, base, new), group=group.cuda(), num_groups=5, return_stats=True)
    for name in ("loss", "nll", "lse", "group_loss", "group_count"):
        torch.testing.assert_close(getattr(ours, name).cpu(), getattr(right, name), rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.correct.cpu(), right.correct)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_twenty_equal_calls_give_equal_bits(dtype):
    data = on_gpu(*problem(300, 64, 20_000, 3000, dtype))
    first = gradients(linear_cross_entropy, *data)
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(gradients(linear_cross_entropy, *data), first, strict=True))


def test_the_loss_never_waits_when_the_count_is_known(no_waiting):
    torch.cuda.set_sync_debug_mode("default")
    hidden, labels, base, new = on_gpu(*problem(64, 64, 900, 100, torch.bfloat16))
    hidden.requires_grad_(), new.requires_grad_()
    torch.cuda.set_sync_debug_mode("error")
    linear_cross_entropy(hidden, labels, base, new, max_valid=64).backward()


def test_errors_are_a_nan_loss():
    hidden, labels, base, new = on_gpu(*problem(dtype=torch.float32))
    wrong = labels.clone()
    wrong[2] = 17
    assert torch.isnan(linear_cross_entropy(hidden, wrong, base, new))
    assert torch.isnan(linear_cross_entropy(hidden, labels, base, new, max_valid=5))


def test_compiled_equals_eager_with_ignored_rows():
    hidden, labels, base, new = on_gpu(*problem(64, 32, 90, 31, torch.float32, range(0, 64, 3)))

    def run(h, n):
        return linear_cross_entropy(h * 2, labels, base, n, max_valid=64)

    results = []
    for function in (run, torch.compile(run, fullgraph=True)):
        leaves = [x.clone().requires_grad_() for x in (hidden, new)]
        value = function(*leaves)
        results.append((value.detach(), *torch.autograd.grad(value, leaves)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_peak_memory_is_a_chunk_of_logits():
    n, v = 8192, 164_021
    hidden = torch.randn(n, 1024, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    base = torch.randn(151_669, 1024, device="cuda", dtype=torch.bfloat16)
    new = torch.randn(12_352, 1024, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    labels = torch.randint(0, v, (n,), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    linear_cross_entropy(hidden, labels, base, new, max_valid=n).backward()
    assert torch.cuda.max_memory_allocated() - before < 1.0 * 2**30


@pytest.mark.parametrize("seed", range(4))
def test_draws_on_given_logits_equal_the_cpus(seed, no_waiting):
    torch.cuda.set_sync_debug_mode("default")
    lo, hi, rest = per_row(50, 1200, seed)
    ties = torch.randint(0, 12, (50, 1200), generator=torch.Generator().manual_seed(seed)) / 4
    for logits in (ties, torch.randn(50, 1200)):
        right = sample_logits(logits, lo, hi, **rest)
        there = on_gpu(logits, lo, hi, *rest.values())
        torch.cuda.set_sync_debug_mode("error")
        ours = sample_logits(*there[:3], **dict(zip(rest, there[3:], strict=True)))
        torch.cuda.set_sync_debug_mode("default")
        assert torch.equal(ours.cpu(), right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_draw_depends_on_its_own_row_alone(dtype):
    hidden, base, new = on_gpu(*head(64, h=72, dtype=dtype))
    lo, hi, rest = per_row(64, 1200, 3)
    lo[::2], hi[::2] = 850, 1100
    lo, hi = on_gpu(lo, hi)
    rest = {k: v.cuda() for k, v in rest.items()}
    together = sample_range(hidden, base, new, lo, hi, **rest)
    order = torch.randperm(64, device="cuda")
    shuffled = sample_range(hidden[order], base, new, lo[order], hi[order], **{k: v[order] for k, v in rest.items()})
    assert torch.equal(shuffled, together[order])
    alone = torch.cat(
        [
            sample_range(
                hidden[i : i + 1], base, new, lo[i : i + 1], hi[i : i + 1], **{k: v[i : i + 1] for k, v in rest.items()}
            )
            for i in range(64)
        ]
    )
    assert torch.equal(alone, together)


PRODUCTS = [(9, 64, "rows"), (64, 1024, "rows"), (64, 4096, (3, 9_190)), (200, 1024, (3, 9_190))]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch,width,lies", PRODUCTS)
def test_tensor_cores_draw_the_same_alone_as_in_a_batch(batch, width, lies, dtype):
    """Parity, first half: no place in a tile, no number of rows and no range changes a bit."""
    hidden, base, new = on_gpu(*head(batch, h=width, v0=9_000, t=300, dtype=dtype))
    lo, hi, rest = per_row(batch, 9_300, 3)
    if lies != "rows":
        lo, hi = torch.full((batch,), lies[0]), torch.full((batch,), lies[1])
    given = {"lo": lo.cuda(), "hi": hi.cuda(), **{k: v.cuda() for k, v in rest.items()}}

    def draw(rows):
        return sample_range(hidden[rows], base, new, **{k: v[rows] for k, v in given.items()}, tensor_cores=True)

    together = draw(slice(None))
    order = torch.randperm(batch, device="cuda")
    assert torch.equal(draw(order), together[order])
    for step in (1, 8, 33):
        parts = [draw(slice(i, min(i + step, batch))) for i in range(0, batch, step)]
        assert torch.equal(torch.cat(parts), together)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("new_rows", [None, torch.float32])
def test_tensor_cores_choose_what_float64_chooses(dtype, new_rows):
    """Parity, second half: greedy ids are the largest logits but for rounding of fp32 sums."""
    hidden, base, new = on_gpu(*head(64, h=4096, v0=9_000, t=300, dtype=dtype))
    new = new.to(new_rows or dtype)
    logits = hidden.double() @ torch.cat([base.double(), new.double()]).T
    ids = sample_range(hidden, base, new, 0, 9_300, tensor_cores=True)
    lack = logits.max(1).values - logits.gather(1, ids[:, None])[:, 0]
    assert (lack <= 4096**0.5 * 2**-22 * logits.abs().max()).all()


def test_what_cannot_be_drawn_is_minus_one():
    logits = torch.zeros(4, 8, device="cuda")
    logits[1, 2] = math.nan
    lo, hi = on_gpu(torch.tensor([0, 0, 5, 0]), torch.tensor([8, 8, 5, 9]))
    assert sample_logits(logits, lo, hi, temperature=1.0).tolist()[1:] == [-1, -1, -1]


def test_every_replay_of_a_graph_draws_anew():
    hidden, base, new = on_gpu(*head(4, h=64))
    offset, seed = torch.zeros(4, dtype=torch.long, device="cuda"), torch.arange(4, device="cuda")

    def step():
        ids = sample_range(hidden, base, new, 900, 1200, temperature=1.0, seed=seed, offset=offset)
        offset.add_(1)
        return ids

    step(), offset.zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    offset.zero_()
    replayed = []
    for _ in range(20):
        graph.replay()
        replayed.append(out.clone())
    offset.zero_()
    assert torch.equal(torch.stack(replayed), torch.stack([step() for _ in range(20)]))
    assert len({tuple(ids.tolist()) for ids in replayed}) > 1


def test_opcheck():
    hidden, labels, base, new = on_gpu(*problem(dtype=torch.float32))
    leaves = hidden.requires_grad_(), labels, base, new.requires_grad_()
    arguments = loss_arguments(leaves, want=(True, False, True), max_valid=23)
    torch.library.opcheck(torch.ops.mmpt.linear_cross_entropy.default, arguments)
    numbers = native._parameters(3, 9, None, 1.0, 0, 0.9, 7, 0, None)
    torch.library.opcheck(torch.ops.mmpt.sample_logits.default, (torch.randn(5, 12, device="cuda"), *numbers))
