"""Reference implementation of the masked cross-entropy of a head: hidden states in, loss and gradients out.

The head is two matrices, the base's rows (usually frozen) and the new rows. Only supervised rows are
multiplied, in chunks of rows, so the full [N, V] logits never exist. For "mean" and "sum" the gradients are
computed in the forward pass, while a chunk's probabilities are at hand; backward only scales them. "none"
keeps no probabilities: its backward multiplies the chunks again. Accumulation is fp32 (fp64 for fp64 input).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits of one chunk: 64 MiB is 102 rows at V = 164,021, and all rows of a small vocabulary.
CHUNK_BYTES = 64 << 20
# Columns of a low-precision weight that are converted at once where no mixed product exists.
UPCAST_COLUMNS = 8192


@dataclass(frozen=True)
class LossResult:
    """The loss, and statistics of the same pass; only `loss` carries a gradient.

    Args:
        loss: scalar, or [N] for reduction "none".
        nll: [N], negative log-likelihood of each label, nats; 0 where ignored.
        lse: [N], log-sum-exp of each row's logits; 0 where ignored.
        correct: bool [N], whether the label has the largest logit (of equal ones the lowest id); False where ignored.
        group_loss: fp64 [G], sum of nll per group.
        group_count: int64 [G], supervised rows per group.
    """

    loss: Tensor
    nll: Tensor
    lse: Tensor
    correct: Tensor
    group_loss: Tensor
    group_count: Tensor


@dataclass(frozen=True)
class _Options:
    softcap: float | None
    z_loss: float
    label_smoothing: float


def linear_cross_entropy(
    hidden: Tensor,
    labels: Tensor,
    weight_base: Tensor,
    weight_new: Tensor | None = None,
    *,
    ignore_index: int = -100,
    column_range: tuple[int | Tensor, int | Tensor] | None = None,
    group: Tensor | None = None,
    num_groups: int = 0,
    token_weight: Tensor | None = None,
    softcap: float | None = None,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    num_items: int | None = None,
    max_valid: int | None = None,
    return_stats: bool = False,
) -> Tensor | LossResult:
    """Cross-entropy of softmax(hidden @ [weight_base; weight_new].T) and labels, in nats.

    Gradients go to those of hidden, weight_base and weight_new that require them. Without a supervised row the loss
    is 0 and so are the gradients.

    Args:
        hidden: [N, H].
        labels: int [N], aligned with hidden (the caller shifts them).
        weight_base: [V0, H], head rows of ids 0..V0 - 1.
        weight_new: [T, H], head rows of ids V0..V0 + T - 1; None: there are none.
        ignore_index: label of rows that are not supervised.
        column_range: (lo, hi), each a number or int [N]: the softmax runs over ids in [lo, hi) only.
        group: int [N] in [0, num_groups), for the sums per group in `LossResult`.
        token_weight: [N], factor of each token's loss.
        softcap: c replaces each logit z by c * tanh(z / c).
        z_loss: adds z_loss * lse**2 to each token's loss.
        label_smoothing: share of the target that is spread evenly over the allowed ids.
        reduction: "mean", "sum" or "none". "mean" divides by num_items, else by the sum of the weights, which is the
            number of supervised rows without token_weight.
        max_valid: largest number of supervised rows that the caller promises.
        return_stats: return a `LossResult` instead of the loss.

    Raises:
        ValueError: wrong shapes, a label outside its range, more supervised rows than max_valid; names the value.
    """
    labels = labels.long()
    _check_shapes(hidden, labels, weight_base, weight_new)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}, expected mean, sum or none")
    vocab = weight_base.shape[0] + (0 if weight_new is None else weight_new.shape[0])
    rows = (labels != ignore_index).nonzero(as_tuple=True)[0]
    if max_valid is not None and rows.numel() > max_valid:
        raise ValueError(f"{rows.numel()} supervised rows, max_valid is {max_valid}")
    lo, hi = _ranges(column_range, rows, labels.shape[0], vocab, hidden.device)
    targets = labels[rows]
    _check_labels(targets, rows, lo, hi)
    acc = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    weights = torch.ones(rows.numel(), dtype=acc, device=hidden.device)
    if token_weight is not None:
        weights = token_weight.detach()[rows].to(acc)
    if reduction == "mean":
        denominator = num_items if num_items is not None else weights.sum()
        weights = weights / denominator if rows.numel() else weights
    options = _Options(softcap, z_loss, label_smoothing)
    fused = reduction != "none"
    loss, nll, lse, correct = _Fused.apply(
        hidden, weight_base, weight_new, rows, targets, lo, hi, weights, options, fused
    )
    if not return_stats:
        return loss
    group_loss, group_count = _group_sums(nll[rows], None if group is None else group[rows], num_groups)
    return LossResult(loss, nll, lse, correct, group_loss, group_count)


def _check_shapes(hidden: Tensor, labels: Tensor, base: Tensor, new: Tensor | None) -> None:
    if hidden.ndim != 2 or labels.shape != hidden.shape[:1]:
        raise ValueError(f"hidden is {tuple(hidden.shape)} and labels {tuple(labels.shape)}, expected [N, H] and [N]")
    for name, weight in (("weight_base", base), ("weight_new", new)):
        if weight is not None and (weight.ndim != 2 or weight.shape[1] != hidden.shape[1]):
            raise ValueError(f"{name} is {tuple(weight.shape)}, expected [rows, {hidden.shape[1]}] as hidden")


def _ranges(
    column_range: tuple | None, rows: Tensor, n: int, vocab: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(lo, hi) int64 [S] of the supervised rows."""
    bounds = (0, vocab) if column_range is None else column_range
    out = []
    for name, bound in zip(("lo", "hi"), bounds, strict=True):
        if isinstance(bound, Tensor) and bound.ndim:
            if bound.shape != (n,):
                raise ValueError(f"column_range {name} is {tuple(bound.shape)}, expected a number or [{n}]")
            out.append(bound.to(device).long()[rows])
        else:
            out.append(torch.full((rows.numel(),), int(bound), dtype=torch.int64, device=device))
    lo, hi = out
    bad = ((lo < 0) | (hi > vocab) | (lo >= hi)).nonzero()
    if bad.numel():
        i = int(bad[0])
        raise ValueError(f"column range [{int(lo[i])}, {int(hi[i])}) of row {int(rows[i])} is not within [0, {vocab})")
    return lo, hi


def _check_labels(targets: Tensor, rows: Tensor, lo: Tensor, hi: Tensor) -> None:
    bad = ((targets < lo) | (targets >= hi)).nonzero()
    if bad.numel():
        i = int(bad[0])
        raise ValueError(
            f"label {int(targets[i])} of row {int(rows[i])} is outside its range [{int(lo[i])}, {int(hi[i])})"
        )


def _group_sums(nll: Tensor, group: Tensor | None, num_groups: int) -> tuple[Tensor, Tensor]:
    """fp64 sums of nll and int64 counts by group, each [num_groups]."""
    sums = torch.zeros(num_groups, dtype=torch.float64, device=nll.device)
    if group is None:
        return sums, torch.zeros(num_groups, dtype=torch.int64, device=nll.device)
    group = group.long()
    if group.numel() and not 0 <= int(group.min()) <= int(group.max()) < num_groups:
        raise ValueError(f"group ids run from {int(group.min())} to {int(group.max())}, num_groups is {num_groups}")
    onehot = torch.nn.functional.one_hot(group, num_groups)  # a matrix product adds in a fixed order, scatter does not
    return onehot.double().T @ nll.double(), onehot.sum(0)


class _Fused(torch.autograd.Function):
    """Gradients of mean and sum come from forward; those of none are computed chunk by chunk in backward."""

    @staticmethod
    def forward(ctx, hidden, base, new, rows, targets, lo, hi, weights, options, fused):
        want = tuple(ctx.needs_input_grad[:3]) if fused else (False, False, False)
        terms, nll, lse, correct, grads = _all_chunks(hidden, base, new, rows, targets, lo, hi, weights, options, want)
        n = hidden.shape[0]

        def scatter(values):
            return values.new_zeros(n).index_copy(0, rows, values)

        ctx.fused, ctx.options, ctx.shape = fused, options, hidden.shape
        if fused:
            ctx.save_for_backward(rows, *grads)
            loss = (terms * weights).sum()
        else:
            ctx.save_for_backward(hidden, base, new, rows, targets, lo, hi, weights)
            loss = scatter(terms * weights)
        stats = scatter(nll), scatter(lse), scatter(correct)
        ctx.mark_non_differentiable(*stats)
        return (loss, *stats)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss, *_):
        if ctx.fused:
            rows, d_hidden, d_base, d_new = ctx.saved_tensors
            grads = [None if g is None else g * grad_loss.to(g.dtype) for g in (d_hidden, d_base, d_new)]
        else:
            hidden, base, new, rows, targets, lo, hi, weights = ctx.saved_tensors
            upstream = weights * grad_loss[rows].to(weights.dtype)
            grads = list(
                _all_chunks(hidden, base, new, rows, targets, lo, hi, upstream, ctx.options, ctx.needs_input_grad[:3])[
                    -1
                ]
            )
        if grads[0] is not None:
            grads[0] = grads[0].new_zeros(ctx.shape).index_copy(0, rows, grads[0])
        return (*grads, None, None, None, None, None, None, None)


def _all_chunks(hidden, base, new, rows, targets, lo, hi, weights, options, want):
    """Walk the supervised rows, range by range and chunk by chunk.

    Returns (terms, nll, lse, correct), each [S], and the gradients (hidden rows [S, H], base, new), None
    where unwanted.
    """
    count, acc = rows.numel(), weights.dtype
    terms, nll, lse = (torch.zeros(count, dtype=acc, device=hidden.device) for _ in range(3))
    correct = torch.zeros(count, dtype=torch.bool, device=hidden.device)
    d_hidden = hidden.new_zeros((count, hidden.shape[1]), dtype=_gradient_dtype(hidden)) if want[0] else None
    d_base = torch.zeros_like(base, dtype=acc) if want[1] else None
    d_new = torch.zeros_like(new, dtype=acc) if want[2] and new is not None else None
    for (start, stop), members in _by_range(lo, hi):
        step = max(1, CHUNK_BYTES // ((stop - start) * (8 if acc == torch.float64 else 4)))
        segments = _segments(base, new, d_base, d_new, start, stop)
        for at in range(0, members.numel(), step):
            part = members[at : at + step]
            x = hidden[rows[part]]
            out = _chunk(x, targets[part], weights[part], segments, options, want[0])
            terms[part], nll[part], lse[part], correct[part] = out[:4]
            if d_hidden is not None:
                d_hidden[part] = out[4].to(d_hidden.dtype)
    return terms, nll, lse, correct, (d_hidden, _as(d_base, base), _as(d_new, new))


def _as(grad: Tensor | None, like: Tensor | None) -> Tensor | None:
    return None if grad is None or like is None else grad.to(_gradient_dtype(like))


def _gradient_dtype(leaf: Tensor) -> torch.dtype:
    """The leaf's, but float32 for float16, in which a mean over many rows is 0 before backward's factor reaches it."""
    return torch.float32 if leaf.dtype == torch.float16 else leaf.dtype


def _by_range(lo: Tensor, hi: Tensor):
    """[((lo, hi), int64 rows with that range)], in ascending order of range."""
    if not lo.numel():
        return []
    pairs, which = torch.unique(torch.stack([lo, hi], 1), dim=0, return_inverse=True)
    return [(tuple(pair), (which == i).nonzero(as_tuple=True)[0]) for i, pair in enumerate(pairs.tolist())]


@dataclass(frozen=True)
class _Segment:
    """Allowed rows of one weight matrix: ids first..first+len, and where their gradient goes."""

    weight: Tensor
    grad: Tensor | None
    first: int


def _segments(base, new, d_base, d_new, start: int, stop: int) -> list[_Segment]:
    split, out = base.shape[0], []
    for weight, grad, first in ((base, d_base, 0), (new, d_new, split)):
        if weight is None:
            continue
        a, b = max(start - first, 0), min(stop - first, weight.shape[0])
        if a < b:
            out.append(_Segment(weight[a:b], None if grad is None else grad[a:b], first + a))
    return out


def _chunk(x, target, weight, segments: list[_Segment], options: _Options, want_hidden: bool):
    """(term, nll, lse, correct) [C] and d_hidden [C, H] of one chunk; adds to the weights' gradients."""
    acc = weight.dtype
    logits = [_product(x, s.weight, acc) for s in segments]
    if options.softcap is not None:
        logits = [torch.tanh(z / options.softcap) * options.softcap for z in logits]
    width = sum(z.shape[1] for z in logits)
    best, index = logits[0].max(1)
    index = index + segments[0].first
    for s, z in zip(segments[1:], logits[1:], strict=True):
        top, at = z.max(1)
        index = torch.where(top > best, at + s.first, index)  # a tie goes to the lower id
        best = torch.maximum(top, best)
    picked = sum(_pick(z, target, s) for s, z in zip(segments, logits, strict=True))
    slopes = [1 - (z / options.softcap) ** 2 for z in logits] if options.softcap is not None else [None] * len(logits)
    mean_logit = sum(z.sum(1) for z in logits) / width if options.label_smoothing else 0.0
    probs = [z.sub_(best[:, None]).exp_() for z in logits]
    total: Any = sum(p.sum(1) for p in probs)
    lse = best + total.log()
    nll = lse - picked
    eps = options.label_smoothing
    term = (1 - eps) * nll + eps * (lse - mean_logit) + options.z_loss * lse * lse
    d_x = torch.zeros((x.shape[0], x.shape[1]), dtype=acc, device=x.device) if want_hidden else None
    scale = weight * (1 + 2 * options.z_loss * lse) / total
    for s, p, slope in zip(segments, probs, slopes, strict=True):
        if d_x is None and s.grad is None:
            continue
        dz = p.mul_(scale[:, None])
        if eps:
            dz -= (weight * (eps / width))[:, None]
        _subtract_at(dz, target, s, weight * (1 - eps))
        if slope is not None:
            dz *= slope
        if d_x is not None:
            d_x += _back_product(dz, s.weight, acc)
        if s.grad is not None:
            s.grad.addmm_(dz.T, x.to(acc))
    return term, nll, lse, index == target, d_x


def _pick(z: Tensor, target: Tensor, segment: _Segment) -> Tensor:
    """The target's logit where it lies in this segment, else 0."""
    local = target - segment.first
    inside = (local >= 0) & (local < z.shape[1])
    value = z.gather(1, local.clamp(0, z.shape[1] - 1)[:, None])[:, 0]
    return torch.where(inside, value, torch.zeros_like(value))


def _subtract_at(dz: Tensor, target: Tensor, segment: _Segment, amount: Tensor) -> None:
    local = target - segment.first
    inside = (local >= 0) & (local < dz.shape[1])
    rows = torch.arange(dz.shape[0], device=dz.device)
    dz[rows, local.clamp(0, dz.shape[1] - 1)] -= torch.where(inside, amount, torch.zeros_like(amount))


def _product(x: Tensor, weight: Tensor, acc: torch.dtype) -> Tensor:
    """x [C, H] @ weight [R, H].T in the accumulation dtype."""
    if x.dtype == weight.dtype == acc:
        return x @ weight.T
    if x.is_cuda and x.dtype != acc:
        return torch.mm(x, weight.to(x.dtype).T, out_dtype=acc)
    tiles = weight.split(UPCAST_COLUMNS)
    return torch.cat([x.to(acc) @ tile.to(acc).T for tile in tiles], 1)


def _back_product(dz: Tensor, weight: Tensor, acc: torch.dtype) -> Tensor:
    """dz [C, R] @ weight [R, H] in the accumulation dtype; on CUDA with low-precision factors."""
    if weight.dtype == acc:
        return dz @ weight
    if dz.is_cuda:
        return torch.mm(dz.to(weight.dtype), weight, out_dtype=acc)
    parts = zip(dz.split(UPCAST_COLUMNS, 1), weight.split(UPCAST_COLUMNS), strict=True)
    return sum(d @ w.to(acc) for d, w in parts)
