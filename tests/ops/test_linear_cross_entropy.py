"""linear_cross_entropy: its loss, gradients and statistics against torch on full logits."""

import pytest
import torch
import torch.nn.functional as F

from mmpt.ops import LossResult, linear_cross_entropy

pytestmark = pytest.mark.usefixtures("backend")

N, H, V0, T = 23, 7, 11, 6


def problem(dtype=torch.float64, ignored=(0, 3, 4, 22), seed=0):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, H, generator=g, dtype=torch.float64).to(dtype)
    base = torch.randn(V0, H, generator=g, dtype=torch.float64).to(dtype)
    new = torch.randn(T, H, generator=g, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, V0 + T, (N,), generator=g)
    labels[list(ignored)] = -100
    return hidden, base, new, labels


def grads(loss, *tensors):
    return torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equals_torch_on_full_logits(reduction):
    hidden, base, new, labels = problem()
    for t in (hidden, base, new):
        t.requires_grad_()
    ours = linear_cross_entropy(hidden, labels, base, new, reduction=reduction)
    theirs = F.cross_entropy(hidden @ torch.cat([base, new]).T, labels, reduction=reduction)
    up = torch.randn_like(theirs)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        grads((ours * up).sum(), hidden, base, new), grads((theirs * up).sum(), hidden, base, new), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"softcap": 2.0},
        {"z_loss": 0.1},
        {"label_smoothing": 0.2},
        {"softcap": 3.0, "z_loss": 0.05, "label_smoothing": 0.1},
    ],
)
def test_gradcheck(reduction, options):
    hidden, base, new, labels = problem()
    hidden, base, new, labels = hidden[:9, :4], base[:7, :4], new[:4, :4], labels[:9].clamp(max=10)  # 80 numbers
    for t in (hidden, base, new):
        t.requires_grad_()
    weight = torch.rand(9, dtype=torch.float64) + 0.1

    def run(h, b, n):
        return linear_cross_entropy(h, labels, b, n, reduction=reduction, token_weight=weight, num_items=5, **options)

    assert torch.autograd.gradcheck(run, (hidden, base, new))


def test_a_frozen_base_gets_no_gradient_and_the_rest_is_unchanged():
    hidden, base, new, labels = problem()
    hidden.requires_grad_(), new.requires_grad_()
    linear_cross_entropy(hidden, labels, base, new).backward()
    assert base.grad is None
    h, n = hidden.grad.clone(), new.grad.clone()
    hidden.grad = new.grad = None
    linear_cross_entropy(hidden, labels, base.clone().requires_grad_(), new).backward()
    assert torch.equal(hidden.grad, h) and torch.equal(new.grad, n)


def test_small_chunks_give_the_same(monkeypatch):
    import sys

    import mmpt.ops.reference_loss  # noqa: F401  (imported first)

    hidden, base, new, labels = problem()
    new.requires_grad_(), hidden.requires_grad_()
    whole = linear_cross_entropy(hidden, labels, base, new)
    expected = grads(whole, hidden, new)
    monkeypatch.setattr(sys.modules["mmpt.ops.reference_loss"], "CHUNK_BYTES", 3 * (V0 + T) * 8)
    chunked = linear_cross_entropy(hidden, labels, base, new)
    torch.testing.assert_close(chunked, whole)
    for a, b in zip(grads(chunked, hidden, new), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_column_range_is_a_softmax_over_that_range():
    hidden, base, new, labels = problem(ignored=(1,))
    lo = torch.where(labels < V0, 0, V0)
    hi = torch.where(labels < V0, V0, V0 + T)
    hi[2], lo[2] = V0 + T, 0  # one row keeps the whole vocabulary, which crosses both matrices
    labels[5:8] = torch.tensor([5, V0 + 1, V0 + 2])
    lo[5:8], hi[5:8] = torch.tensor([3, 3, V0 + 2]), V0 + 4  # ranges that start inside a matrix, or end there
    new.requires_grad_(), hidden.requires_grad_()
    ids = torch.arange(V0 + T)
    logits = (hidden @ torch.cat([base, new]).T).masked_fill((ids < lo[:, None]) | (ids >= hi[:, None]), -torch.inf)
    theirs = F.cross_entropy(logits, labels)
    ours = linear_cross_entropy(hidden, labels, base, new, column_range=(lo, hi))
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(grads(ours, hidden, new), grads(theirs, hidden, new), strict=True):
        torch.testing.assert_close(a, b)


def test_statistics_and_group_sums():
    hidden, base, new, labels = problem()
    group = torch.arange(N) % 3
    out = linear_cross_entropy(hidden, labels, base, new, group=group, num_groups=4, return_stats=True)
    assert isinstance(out, LossResult)
    logits = hidden @ torch.cat([base, new]).T
    keep = labels != -100
    nll = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(out.nll, nll)
    torch.testing.assert_close(out.lse, torch.where(keep, logits.logsumexp(1), torch.zeros(N, dtype=torch.float64)))
    assert torch.equal(out.correct, (logits.argmax(1) == labels) & keep)
    for g in range(3):
        torch.testing.assert_close(out.group_loss[g], nll[group == g].sum())
        assert out.group_count[g] == (keep & (group == g)).sum()
    assert out.group_count[3] == 0 and out.group_loss[3] == 0


def test_of_equal_logits_the_lowest_id_is_the_prediction():
    base, new = torch.ones(3, 2), torch.ones(2, 2)
    labels = torch.tensor([0, 1, 3, 4])
    out = linear_cross_entropy(torch.ones(4, 2), labels, base, new, return_stats=True)
    assert out.correct.tolist() == [True, False, False, False]
    tail = linear_cross_entropy(torch.ones(4, 2), labels.clamp(2), base, new, column_range=(2, 5), return_stats=True)
    assert tail.correct.tolist() == [True, True, False, False]


def test_nothing_supervised_is_a_zero_with_zero_gradients():
    hidden, base, new, labels = problem()
    hidden.requires_grad_(), new.requires_grad_()
    for reduction in ("mean", "sum", "none"):
        loss = linear_cross_entropy(hidden, torch.full_like(labels, -100), base, new, reduction=reduction).sum()
        assert loss == 0 and loss.grad_fn is not None
        for g, t in zip(grads(loss, hidden, new), (hidden, new), strict=True):
            assert g.shape == t.shape and not g.any()


@pytest.mark.parametrize("rows", [0, 1])
def test_empty_and_single_row_batches(rows):
    hidden, base, new, labels = problem(ignored=())
    loss = linear_cross_entropy(hidden[:rows].requires_grad_(), labels[:rows].int(), base, new, reduction="sum")
    expected = F.cross_entropy(hidden[:rows] @ torch.cat([base, new]).T, labels[:rows], reduction="sum")
    torch.testing.assert_close(loss, expected)


def test_no_new_rows_and_a_vocabulary_of_one():
    hidden, base, _, _ = problem()
    zero = torch.zeros(N, dtype=torch.int64)
    assert linear_cross_entropy(hidden, zero, base[:1]) == 0
    torch.testing.assert_close(linear_cross_entropy(hidden, zero, base), F.cross_entropy(hidden @ base.T, zero))


def test_bfloat16_input_accumulates_in_fp32():
    hidden, base, new, labels = problem(torch.bfloat16)
    exact = F.cross_entropy(hidden.double() @ torch.cat([base, new]).double().T, labels)
    loss = linear_cross_entropy(hidden, labels, base, new.float())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=1e-6)


def test_the_mean_divides_by_num_items():
    hidden, base, new, labels = problem()
    total = linear_cross_entropy(hidden, labels, base, new, reduction="sum")
    torch.testing.assert_close(linear_cross_entropy(hidden, labels, base, new, num_items=40), total / 40)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(labels=17), "label 17 of row 5"),
        (dict(labels=-3), "label -3 of row 5"),
        (dict(column_range=(0, 99)), r"\[0, 99\)"),
        (dict(max_valid=3), "19 supervised rows, max_valid is 3"),
        (dict(reduction="avg"), "'avg'"),
        (dict(hidden=torch.zeros(N, H + 1, dtype=torch.float64)), f"expected \\[rows, {H + 1}\\]"),
        (dict(group=torch.full((N,), 9), num_groups=2, return_stats=True), "num_groups is 2"),
    ],
)
def test_bad_arguments_are_named(change, words):
    hidden, base, new, labels = problem()
    change = dict(change)
    if "labels" in change:
        labels[5] = change.pop("labels")
    hidden = change.pop("hidden", hidden)
    with pytest.raises(ValueError, match=words):
        linear_cross_entropy(hidden, labels, base, new, **change)
