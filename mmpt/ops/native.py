"""The compiled operations under the names of the reference ones: same arguments, results and errors.

Importing this builds or loads csrc. The schemas and the CPU, CUDA and Meta kernels are registered there; here are the
backward of the loss and the Python face. Nothing falls back: what a kernel cannot do is an error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmpt.ops import extension, toolkit
from mmpt.ops.reference_loss import LossResult
from mmpt.ops.screens import Screen
from mmpt.store.errors import UserError

kernels = extension.load()

Scalar = int | float | Tensor
_LOSS = "mmpt::linear_cross_entropy"
_LOSS_ARGUMENTS = 21
# Whether tensor cores compute the logits of draws. The tests emulate them, but not how they round: this stays False
# until `.ci/gpu parity` has passed on a GPU and its output is recorded in mmpt/bench/results.
TENSOR_CORES = False


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
    num_items: float | None = None,
    max_valid: int | None = None,
    return_stats: bool = False,
) -> Tensor | LossResult:
    """The compiled `mmpt.ops.reference_loss.linear_cross_entropy`; arguments and results are described there.

    hidden and each weight may be float32, bfloat16, float16 or float64, independently. Sums are fp32, and fp64 for fp64
    hidden. Two calls with equal arguments give equal bits.

    On CUDA max_valid sizes the scratch memory. Without it the supervised rows are counted, which waits for the device.
    More supervised rows than max_valid, or a label, range or group out of bounds, give a NaN loss and NaN gradients
    instead of an error.
    """
    grad = torch.is_grad_enabled()
    lo, row_lo = _split(0 if column_range is None else column_range[0])
    hi, row_hi = _split(-1 if column_range is None else column_range[1])
    loss, nll, lse, correct, group_loss, group_count, *_ = torch.ops.mmpt.linear_cross_entropy(
        hidden,
        labels,
        weight_base,
        weight_new,
        ignore_index,
        lo,
        hi,
        row_lo,
        row_hi,
        None if group is None else group,
        num_groups,
        token_weight,
        softcap or 0.0,
        z_loss,
        label_smoothing,
        reduction,
        num_items,
        max_valid,
        grad and hidden.requires_grad,
        grad and weight_base.requires_grad,
        grad and weight_new is not None and weight_new.requires_grad,
    )
    if not return_stats:
        return loss
    return LossResult(loss, nll, lse, correct, group_loss, group_count)


def sample_range(
    hidden: Tensor,
    weight_base: Tensor,
    weight_new: Tensor | None,
    lo: int | Tensor,
    hi: int | Tensor,
    *,
    extra_id: int | Tensor | None = None,
    temperature: Scalar = 0.0,
    top_k: int | Tensor = 0,
    top_p: Scalar = 1.0,
    seed: int | Tensor = 0,
    offset: int | Tensor = 0,
    softcap: float | None = None,
    max_range: int | None = None,
    screen: Screen | None = None,
    tensor_cores: bool | None = None,
) -> Tensor:
    """The compiled `mmpt.ops.reference_sampling.sample_range`; arguments and results are described there.

    On CUDA nothing waits for the device. A row with a NaN logit or without an allowed id gives -1 instead of an error.
    A captured graph reads parameters that are tensors at each replay, so advance `offset` inside the graph.

    Args:
        max_range: widest hi - lo of any row; sizes scratch memory on CUDA, where the host does not read lo and hi.
        tensor_cores: on CUDA with 16-bit tensors, whether tensor cores compute the logits; None: as TENSOR_CORES says.
            They round differently; a row still draws the same alone as in a batch.
    """
    parameters = _parameters(lo, hi, extra_id, temperature, top_k, top_p, seed, offset, max_range)
    if screen is not None and not softcap:
        return torch.ops.mmpt.sample_screened(
            hidden, weight_base, weight_new, screen.codes, screen.scale, screen.bound, *parameters
        )
    by_them = TENSOR_CORES if tensor_cores is None else tensor_cores
    return torch.ops.mmpt.sample_range(hidden, weight_base, weight_new, softcap or 0.0, *parameters, by_them)


def screen(weight_base: Tensor, weight_new: Tensor | None) -> Screen:
    """The screen of a head, for draws on the CPU. It is of the present weights: make another after a change.

    Raises:
        ValueError: H is above 65,536.
    """
    return Screen(*torch.ops.mmpt.screen(weight_base, weight_new))


def sample_logits(
    logits: Tensor,
    lo: int | Tensor,
    hi: int | Tensor,
    *,
    extra_id: int | Tensor | None = None,
    temperature: Scalar = 0.0,
    top_k: int | Tensor = 0,
    top_p: Scalar = 1.0,
    seed: int | Tensor = 0,
    offset: int | Tensor = 0,
    max_range: int | None = None,
) -> Tensor:
    """sample_range on given logits [B, V], all ids: the same arguments, the same draws."""
    return torch.ops.mmpt.sample_logits(
        logits, *_parameters(lo, hi, extra_id, temperature, top_k, top_p, seed, offset, max_range)
    )


def _split(value: Scalar) -> tuple[Any, Tensor | None]:
    """(number, None), or (a number nobody reads, the tensor)."""
    return (0, value) if isinstance(value, Tensor) else (value, None)


def _parameters(lo, hi, extra_id, temperature, top_k, top_p, seed, offset, max_range) -> list:
    """The numbers, the tensors and max_range, in the order of the schema."""
    given = (lo, hi, -1 if extra_id is None else extra_id, temperature, top_k, top_p, seed, offset)
    numbers = [0 if isinstance(value, Tensor) else value for value in given]
    if max_range is None:
        whole = isinstance(lo, Tensor) or isinstance(hi, Tensor)
        max_range = -1 if whole else hi - lo
    return [*numbers, *(value if isinstance(value, Tensor) else None for value in given), max_range]


def _setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    _, _, lse, _, _, _, *grads = output
    ctx.types = tuple(None if leaf is None else leaf.dtype for leaf in (inputs[0], inputs[2], inputs[3]))
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.fused = inputs[15] != "none"
    ctx.want = inputs[18:21]
    if ctx.fused:
        ctx.save_for_backward(*grads)
        return
    hidden, labels, base, new, ignore_index, lo, hi, row_lo, row_hi, _, _, token_weight, cap, z, smooth = inputs[:15]
    ctx.save_for_backward(hidden, labels, base, new, lse, row_lo, row_hi, token_weight)
    max_valid = inputs[17]
    ctx.rest = (ignore_index, lo, hi), (cap, z, smooth, max_valid)


def _scaled(grad: Tensor, factor: Tensor) -> Tensor:
    """grad * factor; in place where the graph is not kept, since nobody will read the saved gradient again.

    The new rows' gradient is 50 MB in fp32 at H = 1024, whose page faults alone cost a CPU 20 ms.
    """
    if type(grad) is not Tensor or torch._C._autograd._get_current_graph_task_keep_graph():
        return grad * factor
    return grad if grad.device.type == "cpu" and float(factor) == 1.0 else grad.mul_(factor)


def _backward(ctx: Any, grad_loss: Tensor | None, *_: Any) -> tuple:
    if torch.is_grad_enabled():
        raise RuntimeError("linear_cross_entropy has no second derivative: call backward without create_graph")
    out: list[Tensor | None] = [None] * _LOSS_ARGUMENTS
    if grad_loss is None:
        return tuple(out)
    if ctx.fused:
        grads = [_scaled(g, grad_loss) for g in ctx.saved_tensors]
    else:
        hidden, labels, base, new, lse, row_lo, row_hi, token_weight = ctx.saved_tensors
        (ignore_index, lo, hi), options = ctx.rest
        grads = torch.ops.mmpt.linear_cross_entropy_backward(
            hidden,
            labels,
            base,
            new,
            lse,
            grad_loss,
            ignore_index,
            lo,
            hi,
            row_lo,
            row_hi,
            token_weight,
            *options,
            *ctx.want,
        )
    for place, wanted, value, dtype in zip((0, 2, 3), ctx.want, grads, ctx.types, strict=True):
        if wanted:
            out[place] = value.to(dtype)  # float16's gradients come in float32, for the factor above
    return tuple(out)


torch.library.register_autograd(_LOSS, _backward, setup_context=_setup)


def _refuse_cuda(*_: Any, **__: Any) -> None:
    """Stands for the CUDA kernels in a module without them: torch would only say that none is registered."""
    found, fix = toolkit.obstacle() or ("another state of this machine", "build the module again")
    raise UserError("the operations were compiled for the CPU alone", found=found, fix=f"{fix}, {toolkit.OR_REFERENCE}")


if not kernels.cuda:
    _cpu_alone = torch.library.Library("mmpt", "IMPL", "CUDA")
    for _name in ("linear_cross_entropy", "linear_cross_entropy_backward", "sample_range", "sample_logits"):
        _cpu_alone.impl(_name, _refuse_cuda)
