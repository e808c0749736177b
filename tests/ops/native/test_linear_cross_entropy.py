"""The compiled linear_cross_entropy against float64, against the plain one, and at every edge."""

import itertools

import pytest
import torch
import torch._inductor.config
import torch.nn.functional as F

from mmpt.ops import linear_cross_entropy as plain
from mmpt.ops.native import linear_cross_entropy


def problem(n=23, h=7, v0=11, t=6, dtype=torch.float64, ignored=(0, 3, 4, 22), seed=0, scale=1.0):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return (torch.randn(*shape, generator=g, dtype=torch.float64) * scale).to(dtype)

    hidden, base, new = draw(n, h), draw(v0, h), draw(t, h)
    labels = torch.randint(0, v0 + t, (n,), generator=g)
    labels[[i for i in ignored if i < n]] = -100
    return hidden, labels, base, new


def gradients(function, hidden, labels, base, new, upstream=None, **options):
    """(loss, d_hidden, d_base, d_new) of a loss function, on fresh leaves."""
    leaves = [x.detach().clone().requires_grad_() for x in (hidden, base, new)]
    loss = function(leaves[0], labels, leaves[1], leaves[2], **options)
    scalar = loss if upstream is None else (loss * upstream).sum()
    return (loss.detach(), *torch.autograd.grad(scalar, leaves))


def distances(ours, exact):
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(ours, exact, strict=True)]


def torch_path(hidden, labels, base, new):
    return F.cross_entropy((hidden @ torch.cat([base, new]).T).float(), labels)


@pytest.mark.parametrize("shape", [(150, 64, 1500, 700), (70, 37, 900, 333), (130, 96, 1, 2000), (66, 32, 2000, 0)])
def test_fp32_is_near_float64(instruction_set, shape):
    n, h, v0, t = shape
    hidden, labels, base, new = problem(n, h, v0, t, torch.float32, scale=0.5)
    exact = gradients(torch_exact, hidden.double(), labels, base.double(), new.double())
    ours = gradients(linear_cross_entropy, hidden, labels, base, new)
    kept = [i for i, x in enumerate(exact) if x.numel()]
    assert max(distances([ours[i] for i in kept], [exact[i] for i in kept])) < 3e-6


def torch_exact(hidden, labels, base, new):
    return F.cross_entropy(hidden @ torch.cat([base, new]).T, labels)


@pytest.mark.parametrize("shape", [(200, 64, 3000, 1100), (90, 96, 1000, 77), (40, 50, 2001, 300)])
def test_bf16_error_is_at_most_twice_that_of_torch(instruction_set, shape):
    n, h, v0, t = shape
    hidden, labels, base, new = problem(n, h, v0, t, torch.bfloat16, scale=0.7)
    exact = gradients(torch_exact, hidden.double(), labels, base.double(), new.double())
    theirs = distances(gradients(torch_path, hidden, labels, base, new), exact)
    ours = distances(gradients(linear_cross_entropy, hidden, labels, base, new), exact)
    for name, mine, other in zip(("loss", "d_hidden", "d_base", "d_new"), ours, theirs, strict=True):
        assert mine <= 2 * other + 1e-5, f"{name}: {mine} against {other}"


@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float16, torch.float16, torch.float16),
    ],
)
def test_weights_may_have_their_own_dtype(instruction_set, dtypes):
    hidden, labels, base, new = problem(80, 64, 700, 300, scale=0.5)
    hidden, base, new = (x.to(d) for x, d in zip((hidden, base, new), dtypes, strict=True))
    ours = gradients(linear_cross_entropy, hidden, labels, base, new)
    exact = gradients(torch_exact, hidden.double(), labels, base.double(), new.double())
    assert [x.dtype for x in ours[1:]] == list(dtypes)
    assert max(distances(ours, exact)) < 1e-2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": "none"},
        {"reduction": "sum", "softcap": 3.0},
        {"label_smoothing": 0.1, "z_loss": 1e-2},
        {"reduction": "none", "label_smoothing": 0.1, "softcap": 2.0},
        {"num_items": 7},
        {"column_range": (3, 400)},
        {"column_range": "rows"},
        {"column_range": "rows", "reduction": "none", "label_smoothing": 0.2},
        {"token_weight": "rows"},
        {"token_weight": "rows", "reduction": "sum"},
    ],
)
def test_every_option_equals_the_plain_one(instruction_set, options):
    options = dict(options)
    hidden, labels, base, new = problem(90, 33, 300, 150, torch.float32, range(0, 90, 3))
    if options.get("column_range") == (3, 400):
        labels = torch.where(labels >= 0, labels.clamp(3, 399), labels)
    if options.get("column_range") == "rows":
        kind = torch.arange(90) % 3
        lo, hi = torch.tensor([0, 250, 310])[kind], torch.tensor([200, 350, 311])[kind]
        options["column_range"] = lo, hi
        labels = torch.where(labels >= 0, torch.maximum(lo, torch.minimum(labels, hi - 1)), labels)
    if "token_weight" in options:
        options["token_weight"] = torch.linspace(0, 2, 90)
    up = torch.linspace(-1, 2, 90) if options.get("reduction") == "none" else None
    for ours, theirs in zip(
        gradients(linear_cross_entropy, hidden, labels, base, new, up, **options),
        gradients(plain, hidden, labels, base, new, up, **options),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-5)


def test_statistics_equal_the_plain_ones(instruction_set):
    hidden, labels, base, new = problem(90, 40, 300, 150, torch.float32, range(0, 90, 3))
    base[7] = base[5]  # ties: the lower id is the one that is right
    hidden[1], labels[1], labels[2] = base[5] * 2, 5, 7
    hidden[2] = hidden[1]
    largest = (hidden @ torch.cat([base, new]).T).argmax(1)
    labels[40:] = torch.where(labels[40:] < 0, -100, largest[40:])  # right wherever in a tile they lie
    group = torch.arange(90, dtype=torch.int32) % 4
    ours, theirs = (
        f(hidden, labels, base, new, group=group, num_groups=5, return_stats=True)
        for f in (linear_cross_entropy, plain)
    )
    for name in ("loss", "nll", "lse", "group_loss", "group_count"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.correct, theirs.correct) and bool(ours.correct[1]) and not bool(ours.correct[2])
    assert int(ours.correct.sum()) > 30


@pytest.mark.parametrize("trains", list(itertools.product([False, True], repeat=3)))
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradients_go_to_what_trains_and_nowhere_else(trains, reduction):
    tensors = dict(zip(("hidden", "labels", "base", "new"), problem(dtype=torch.float32), strict=True))
    everything = gradients(linear_cross_entropy, *tensors.values(), torch.ones(()), reduction=reduction)[1:]
    leaves = [tensors[k].clone().requires_grad_(on) for k, on in zip(("hidden", "base", "new"), trains, strict=True)]
    loss = linear_cross_entropy(leaves[0], tensors["labels"], leaves[1], leaves[2], reduction=reduction).sum()
    assert loss.requires_grad == any(trains)
    if any(trains):
        loss.backward()
    for leaf, on, full in zip(leaves, trains, everything, strict=True):
        assert (leaf.grad is not None) == on
        if on:
            torch.testing.assert_close(leaf.grad, full, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "n,h,v0,t",
    [(1, 8, 5, 3), (1, 1, 1, 0), (3, 5, 0, 4), (5, 3, 1, 0), (64, 32, 9, 1), (65, 33, 513, 1), (257, 32, 193, 192)],
)
def test_small_and_odd_shapes(instruction_set, n, h, v0, t):
    hidden, labels, base, new = problem(n, h, v0, t, torch.float32, ignored=())
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 3e-2)):
        data = hidden.to(dtype), labels, base.to(dtype), new.to(dtype)
        exact = gradients(torch_exact, data[0].double(), labels, data[2].double(), data[3].double())
        for ours, right in zip(gradients(linear_cross_entropy, *data), exact, strict=True):
            torch.testing.assert_close(ours.double(), right, rtol=tolerance, atol=tolerance)


def test_empty_batch_and_no_new_rows():
    base = torch.randn(5, 4, requires_grad=True)
    loss = linear_cross_entropy(torch.randn(0, 4), torch.zeros(0, dtype=torch.long), base)
    loss.backward()
    assert float(loss) == 0 and not base.grad.any()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int64])
def test_labels_of_any_integer_type(dtype):
    hidden, labels, base, new = problem(dtype=torch.float32)
    assert torch.equal(
        linear_cross_entropy(hidden, labels.to(dtype), base, new), linear_cross_entropy(hidden, labels, base, new)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strided_inputs_give_the_same_bits(dtype):
    hidden, labels, base, new = problem(70, 64, 300, 100, dtype)

    def apart(x):
        return torch.stack([x, x + 1], -1)[..., 0]

    def turned(x):
        return x.T.contiguous().T

    def rows(x):
        return torch.cat([x, x], 1)[:, : x.shape[1]]

    straight = gradients(linear_cross_entropy, hidden, labels, base, new)
    for form in (apart, turned, rows):
        leaves = [form(x).detach().requires_grad_() for x in (hidden, base, new)]
        assert not leaves[0].is_contiguous()
        loss = linear_cross_entropy(leaves[0], torch.stack([labels, labels], 1)[:, 0], leaves[1], leaves[2])
        for ours, same in zip((loss, *torch.autograd.grad(loss, leaves)), straight, strict=True):
            assert torch.equal(ours, same)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_calls_give_equal_bits_on_any_number_of_threads(instruction_set, dtype):
    hidden, labels, base, new = problem(150, 64, 5000, 1500, dtype)
    first = gradients(linear_cross_entropy, hidden, labels, base, new)
    for threads in (2, 2, 1, 3):
        torch.set_num_threads(threads)
        for a, b in zip(gradients(linear_cross_entropy, hidden, labels, base, new), first, strict=True):
            assert torch.equal(a, b)


def test_backward_twice_and_with_a_scale():
    hidden, labels, base, new = problem(dtype=torch.float32)
    new.requires_grad_()
    loss = linear_cross_entropy(hidden, labels, base, new)
    once = torch.autograd.grad(loss, new, retain_graph=True)[0]
    for _ in range(3):
        (loss * 0.25).backward(retain_graph=True)
    torch.testing.assert_close(new.grad, 0.75 * once)
    last = torch.autograd.grad(loss * 0.5, new, retain_graph=True)[0]
    torch.testing.assert_close(last, 0.5 * once)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(loss, new, create_graph=True)


def test_gradients_of_two_steps_add_up():
    hidden, labels, base, new = problem(dtype=torch.float32)
    hidden.requires_grad_(), new.requires_grad_()
    for factor in (1.0, 1.0, 0.5):  # 1 hands the saved gradient over as it is: the next step must not write into it
        (linear_cross_entropy(hidden, labels, base, new) * factor).backward()
    single = gradients(linear_cross_entropy, hidden, labels, base, new)
    torch.testing.assert_close(hidden.grad, 2.5 * single[1])
    torch.testing.assert_close(new.grad, 2.5 * single[3])


def test_a_nan_in_a_supervised_row_is_seen_and_one_in_an_ignored_row_is_not():
    hidden, labels, base, new = problem(dtype=torch.float32)
    hidden[0] = torch.nan
    assert torch.isfinite(linear_cross_entropy(hidden, labels, base, new))
    hidden[1] = torch.nan
    assert torch.isnan(linear_cross_entropy(hidden, labels, base, new))


@pytest.mark.parametrize(
    "change,message",
    [
        ({"column_range": (5, 5)}, r"column range \[5, 5\) of row 1"),
        ({"column_range": (0, 18)}, r"\[0, 18\) of row 1 is not within \[0, 17\)"),
        ({"column_range": (torch.zeros(4, dtype=torch.long), 17)}, r"lo is \[4\], expected \[23\]"),
        ({"token_weight": torch.ones(3)}, r"token_weight is \[3\], expected \[23\]"),
        ({"softcap": -1.0}, "softcap is -1"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1"),
    ],
)
def test_a_wrong_argument_raises_with_its_value(change, message):
    hidden, labels, base, new = problem(dtype=torch.float32)
    options = dict(change)
    if "labels" in options:
        row, value = options.pop("labels")
        labels[row] = value
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(hidden, labels, base, new, **options)


@pytest.mark.parametrize(
    "place,shape,message",
    [
        (0, (23, 7, 1), r"hidden is \[23, 7, 1\]"),
        (1, (22,), r"labels \[22\]"),
        (2, (11, 8), r"weight_base is \[11, 8\]"),
        (3, (6, 6), r"weight_new is \[6, 6\], expected \[rows, 7\]"),
    ],
)
def test_a_wrong_shape_raises_with_the_shape(place, shape, message):
    data = list(problem(dtype=torch.float32))
    data[place] = torch.zeros(shape, dtype=data[place].dtype)
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(*data)


def loss_arguments(data, reduction="mean", want=(True, True, True), **options):
    """All arguments of the registered operator, in its order."""
    rows = {"lo": 0, "hi": -1, "row_lo": None, "row_hi": None, "group": None, "num_groups": 0, "token_weight": None}
    numbers = {"softcap": 0.0, "z_loss": 0.0, "label_smoothing": 0.0}
    tail = options.pop("num_items", None), options.pop("max_valid", None)
    return (*data, -100, *{**rows, **numbers, **options}.values(), reduction, *tail, *want)


def backward_arguments(data, weight, label_smoothing=0.0):
    """Those of its backward."""
    hidden, _, base, new = data
    lse = torch.logsumexp(hidden @ torch.cat([base, new]).T, 1)
    return (*data, lse, weight, -100, 0, -1, None, None, None, 0.0, 0.0, label_smoothing, None, True, True, True)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_opcheck(reduction):
    hidden, labels, base, new = problem(dtype=torch.float32)
    leaves = hidden.requires_grad_(), labels, base, new.requires_grad_()
    arguments = loss_arguments(leaves, reduction, (True, False, True))
    torch.library.opcheck(torch.ops.mmpt.linear_cross_entropy.default, arguments)


def test_opcheck_of_the_backward():
    arguments = backward_arguments(problem(dtype=torch.float32), torch.rand(23))
    torch.library.opcheck(torch.ops.mmpt.linear_cross_entropy_backward.default, arguments)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])  # a C++ compiler
def test_compiled_equals_eager_with_ignored_rows(backend):
    hidden, labels, base, new = problem(40, 32, 90, 31, torch.float32, range(0, 40, 3))

    def loss(h, b, n):
        return linear_cross_entropy(h * 2, labels, b, n, z_loss=1e-3) * 3

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend=backend)):
        leaves = [x.clone().requires_grad_() for x in (hidden, base, new)]
        value = function(*leaves)
        results.append((value.detach(), *torch.autograd.grad(value, leaves)))
    for eager, compiled in zip(*results, strict=True):
        assert torch.equal(eager, compiled)


@torch.no_grad()
def test_inductor_calls_the_operator_on_the_strides_that_it_gets():
    """Between products and views alone, for which inductor runs no C++ compiler."""
    hidden, labels, base, new = problem(40, 32, 90, 31, torch.float32, range(0, 40, 3))
    mix = torch.eye(32).flip(0)

    def loss(h, b, n):
        return linear_cross_entropy((mix @ h.T).T, labels, b, n, z_loss=1e-3)

    with torch._inductor.config.patch(compile_threads=1):  # starts no processes that compile
        compiled = torch.compile(loss, fullgraph=True, backend="inductor")(hidden, base, new)
    assert torch.equal(compiled, loss(hidden, base, new))


def test_no_array_of_supervised_rows_by_vocabulary_exists():
    hidden, labels, base, new = problem(512, 32, 60000, 3000, torch.float32, ignored=())
    hidden.requires_grad_(), new.requires_grad_()
    before = peak_kib()
    linear_cross_entropy(hidden, labels, base, new).backward()
    assert peak_kib() - before < 512 * 63000 * 4 / 1024 / 2


def peak_kib():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
