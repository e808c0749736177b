"""The operations and their peers as functions of one shape: loss(problem) -> scalar, draw(problem) -> ids.

Every peer gets what suits it: one leaf [V, H] as weight where it knows no segments, rows filtered by hand where asked.
A peer imports its library when it is made, so that one which is not installed says so and the others run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Step = Callable[[], Any]  # the result, a tensor or ours with statistics, is not read
IGNORED = -100


@dataclass(frozen=True)
class LossProblem:
    """hidden [N, H] that trains, labels [N], and the head both as two segments and, for peers, as one leaf."""

    hidden: Tensor
    labels: Tensor
    base: Tensor
    new: Tensor
    whole: Tensor  # [V0 + T, H]; the segments are views of its data
    supervised: int
    trains: str  # "new": hidden and new rows; "all": every row too; "hidden": hidden alone


def loss_problem(
    n: int, supervised: int, h: int, dtype: torch.dtype, device: str, trains: str, peaky: bool = False
) -> LossProblem:
    """Qwen3's vocabulary with all segments, 151,669 + 12,352 ids, with `supervised` of n rows labelled.

    peaky: hidden points to its label's row of the head, whose logit is then about 16 above the mean of the others.
    """
    g = torch.Generator(device=device).manual_seed(0)
    whole = torch.empty(164_021, h, device=device, dtype=dtype).normal_(0, 0.03, generator=g)
    hidden = torch.empty(n, h, device=device, dtype=dtype).normal_(generator=g)
    labels = torch.full((n,), IGNORED, device=device)
    rows = torch.randperm(n, device=device, generator=g)[:supervised]
    labels[rows] = torch.randint(0, 164_021, (supervised,), device=device, generator=g)
    if peaky:
        hidden[rows] += whole[labels[rows]] * (16.0 / (0.03**2 * h))
    hidden.requires_grad_()
    base, new = whole[:151_669].detach(), whole[151_669:].detach()
    base.requires_grad_(trains == "all"), new.requires_grad_(trains != "hidden")
    # A leaf of its own: what a peer can train is all rows or none.
    return LossProblem(hidden, labels, base, new, whole.requires_grad_(trains != "hidden"), supervised, trains)


def ours(p: LossProblem) -> Step:
    from mmpt.ops.native import linear_cross_entropy

    return lambda: linear_cross_entropy(p.hidden, p.labels, p.base, p.new, max_valid=p.supervised)


def plain(p: LossProblem) -> Step:
    from mmpt.ops.reference_loss import linear_cross_entropy

    return lambda: linear_cross_entropy(p.hidden, p.labels, p.base, p.new)


def _dense(hidden: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    return F.cross_entropy((hidden @ weight.T).float(), labels)


def torch_dense(p: LossProblem) -> Step:
    return lambda: _dense(p.hidden, p.labels, p.whole)


def torch_compile(p: LossProblem) -> Step:
    compiled = torch.compile(_dense)
    return lambda: compiled(p.hidden, p.labels, p.whole)


def torch_chunked(p: LossProblem) -> Step:
    """torch >= 2.13; 128 rows per chunk on a CPU, where its own choice is 2 and 30 times slower."""
    how: dict[str, Any] = {"batch_chunk_size": 128, "chunking_method": None, "acc_policy": "accurate"}
    options = torch.nn.LinearCrossEntropyOptions(**({} if p.hidden.is_cuda else how))
    return lambda: F.linear_cross_entropy(p.hidden, p.whole, p.labels, ignore_index=IGNORED, options=options)


def cut_cross_entropy(p: LossProblem) -> Step:
    from cut_cross_entropy import linear_cross_entropy

    how = "cce" if p.hidden.is_cuda else "torch_compile"
    return lambda: linear_cross_entropy(p.hidden, p.whole, p.labels, impl=how)


def liger(p: LossProblem) -> Step:
    if p.hidden.is_cuda:
        from liger_kernel.ops import LigerFusedLinearCrossEntropyFunction as fused

        return lambda: fused.apply(p.hidden, p.whole, p.labels)[0]
    from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction as scaled

    return lambda: scaled.apply(p.hidden, p.whole, p.labels).sum() / p.supervised


def quack(p: LossProblem) -> Step:
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    return lambda: chunked_linear_cross_entropy(p.hidden, p.whole, p.labels, ignore_index=IGNORED, reduction="mean")


QUACK_COLUMNS, QUACK_ROWS = 256, 128  # what QuACK's fast products divide by


def quack_padded(p: LossProblem, use_scaled_exp: bool = False) -> Step:
    """QuACK where it is fastest: columns padded to 164,096, rows to a multiple of 128. For its speed alone: the padded
    columns have logits of 0, which its softmax counts.
    """
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    more = -len(p.whole) % QUACK_COLUMNS
    weight = F.pad(p.whole.detach(), (0, 0, 0, more)).requires_grad_(p.whole.requires_grad)
    rows = -len(p.hidden) % QUACK_ROWS
    labels = F.pad(p.labels, (0, rows), value=IGNORED)

    def step() -> Tensor:
        weight.grad = None
        hidden = F.pad(p.hidden, (0, 0, 0, rows)) if rows else p.hidden
        return chunked_linear_cross_entropy(
            hidden, weight, labels, ignore_index=IGNORED, reduction="mean", use_scaled_exp=use_scaled_exp
        )

    return step


def quack_scaled_exp(p: LossProblem) -> Step:
    return quack_padded(p, use_scaled_exp=True)


def filter_dense(p: LossProblem) -> Step:
    def step() -> Tensor:
        kept = p.labels != IGNORED
        return _dense(p.hidden[kept], p.labels[kept], p.whole)

    return step


def filter_checkpoint(p: LossProblem) -> Step:
    """TRL's chunked_nll: supervised rows only, 256 a chunk, recomputed in backward."""

    def part(hidden: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy((hidden @ p.whole.T).float(), labels, reduction="sum")

    def step() -> Tensor:
        kept = p.labels != IGNORED
        chunks = zip(p.hidden[kept].split(256), p.labels[kept].split(256), strict=True)
        return sum(checkpoint(part, h, y, use_reentrant=False) for h, y in chunks) / p.supervised

    return step


def filter_two_products(p: LossProblem) -> Step:
    """By hand, knowing the segments: the base is multiplied without asking for its gradient."""

    def step() -> Tensor:
        kept = p.labels != IGNORED
        hidden = p.hidden[kept]
        logits = torch.cat([hidden @ p.base.T, hidden @ p.new.T], 1)
        return F.cross_entropy(logits.float(), p.labels[kept])

    return step


LOSSES: dict[str, Callable[[LossProblem], Step]] = {
    "mmpt": ours,
    "mmpt plain": plain,
    "torch dense": torch_dense,
    "torch.compile": torch_compile,
    "torch chunked": torch_chunked,
    "cut-cross-entropy": cut_cross_entropy,
    "liger": liger,
    "quack": quack,
    "quack padded": quack_padded,
    "quack padded scaled-exp": quack_scaled_exp,
    "filter + dense": filter_dense,
    "filter + checkpoint": filter_checkpoint,
    "filter + two products": filter_two_products,
}
# Peers that multiply ignored rows: they run a second time with rows filtered by hand.
MULTIPLY_ALL_ROWS = (
    "torch dense",
    "torch.compile",
    "torch chunked",
    "cut-cross-entropy",
    "liger",
    "quack",
    "quack padded",
    "quack padded scaled-exp",
)


def prefiltered(p: LossProblem) -> LossProblem:
    """The same problem with the ignored rows taken out by hand."""
    kept = p.labels != IGNORED
    hidden = p.hidden.detach()[kept].requires_grad_()
    return LossProblem(hidden, p.labels[kept], p.base, p.new, p.whole, p.supervised, p.trains)


# ---- sampling ----------------------------------------------------------------------------------------------------


TEXT = 151_669  # a caption's ids


@dataclass(frozen=True)
class DrawProblem:
    """hidden [B, H], the head [V, H], and the allowed ids [lo, hi)."""

    hidden: Tensor
    head: Tensor
    lo: int
    hi: int


def draw_problem(batch: int, h: int, width: int, dtype: torch.dtype, device: str) -> DrawProblem:
    head = torch.empty(164_021, h, device=device, dtype=dtype).normal_(0, 0.03)
    hidden = torch.empty(batch, h, device=device, dtype=dtype).normal_()
    lo = 164_021 - 4096 if width <= 1024 else 0 if width == TEXT else 151_733
    return DrawProblem(hidden, head, lo, lo + width)


def draw_ours(p: DrawProblem, screened: bool = True, **options: bool) -> Step:
    """As generation draws: from wide ranges by a screen, which is made once. options: more of `sample_range`'s."""
    from mmpt.ops import sample_range, screen

    made = screen(p.head, None) if screened and p.hi - p.lo == TEXT else None
    seed, offset = (
        torch.arange(len(p.hidden), device=p.hidden.device),
        torch.zeros(1, dtype=torch.long, device=p.hidden.device),
    )

    def step() -> Tensor:
        offset.add_(1)
        return sample_range(
            p.hidden,
            p.head,
            None,
            p.lo,
            p.hi,
            temperature=1.0,
            seed=seed,
            offset=offset.expand(len(seed)),
            screen=made,
            **options,
        )

    return step


def draw_unscreened(p: DrawProblem) -> Step:
    return draw_ours(p, screened=False)


def draw_by_tensor_cores(p: DrawProblem) -> Step:
    return draw_ours(p, tensor_cores=True)


def _multinomial(logits: Tensor) -> Tensor:
    return torch.multinomial(torch.softmax(logits.float(), -1), 1)


def draw_full_mask(p: DrawProblem) -> Step:
    allowed = torch.zeros(len(p.head), dtype=torch.bool, device=p.head.device)
    allowed[p.lo : p.hi] = True
    return lambda: _multinomial((p.hidden @ p.head.T).masked_fill(~allowed, -torch.inf))


def draw_sliced(p: DrawProblem) -> Step:
    return lambda: _multinomial(p.hidden @ p.head[p.lo : p.hi].T) + p.lo


def draw_sliced_gumbel(p: DrawProblem) -> Step:
    def step() -> Tensor:
        logits = (p.hidden @ p.head[p.lo : p.hi].T).float()
        return (logits - torch.empty_like(logits).exponential_().log()).argmax(-1) + p.lo

    return step


def draw_xgrammar(p: DrawProblem) -> Step:
    import xgrammar

    bitmask = xgrammar.allocate_token_bitmask(len(p.hidden), len(p.head))
    bitmask.zero_()
    for token in range(p.lo, p.hi):
        bitmask[:, token // 32] |= torch.tensor(1 << (token % 32)).to(torch.int32)
    bitmask = bitmask.to(p.hidden.device)

    def step() -> Tensor:
        logits = (p.hidden @ p.head.T).float()
        xgrammar.apply_token_bitmask_inplace(logits, bitmask)
        return _multinomial(logits)

    return step


def draw_transformers(p: DrawProblem) -> Step:
    from transformers import PrefixConstrainedLogitsProcessor

    allowed = list(range(p.lo, p.hi))
    processor = PrefixConstrainedLogitsProcessor(lambda batch, ids: allowed, num_beams=1)
    prefix = torch.zeros(len(p.hidden), 1, dtype=torch.long, device=p.hidden.device)
    return lambda: _multinomial(processor(prefix, (p.hidden @ p.head.T).float()))


def draw_flashinfer(p: DrawProblem) -> Step:
    from flashinfer.sampling import sampling_from_logits

    return lambda: sampling_from_logits((p.hidden @ p.head[p.lo : p.hi].T).float()) + p.lo


BY_TENSOR_CORES = "mmpt, tensor cores"
DRAWS: dict[str, Callable[[DrawProblem], Step]] = {
    "mmpt": draw_ours,
    "mmpt, no screen": draw_unscreened,
    "full head + mask + multinomial": draw_full_mask,
    "sliced + multinomial": draw_sliced,
    "sliced + Gumbel": draw_sliced_gumbel,
    "full head + XGrammar + multinomial": draw_xgrammar,
    "full head + transformers prefix": draw_transformers,
    "sliced + FlashInfer": draw_flashinfer,
    BY_TENSOR_CORES: draw_by_tensor_cores,
}
DRAWS_OF_TEXT = ("mmpt", "mmpt, no screen", "sliced + multinomial", "sliced + Gumbel")  # others multiply 8 % more
