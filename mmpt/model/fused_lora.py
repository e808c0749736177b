"""LoRA with fewer passes over the activations than PEFT's `W x + s * B (A x)`; the same numbers up to rounding.

float32, small matrices (FoldedLora): one product with W + s B A instead of three products with W, A and B.

For in x out weights and rank r, PEFT's three products cost a token 2 in out + 3 r (in + out) multiplications,
forward and backward; folded it is 3 in out, and B A once per step. Where the matrix is narrow beside the rank,
folding is cheaper, and it saves the passes over the activations that scale and add: 0.60 s against 0.49 s of
CPU time for a step of 4,096 tokens of the tiny model (hidden 128, rank 32).

float32, large matrices, and every one with dropout (AddedLora): W x is added to in place by the product with B, and
s goes to A, which is narrow; PEFT writes, scales and adds a second output instead.

A base in 16 bits (SlimLora): A and B are fp32, and PEFT casts x to fp32, multiplies there without tensor cores,
scales, adds and casts back: some 28 bytes a number of x and of W x forward, much of it kept for the backward. Here A
and B are rounded to the base's dtype instead, which is what autocast does to them, every product is one of the base's
dtype that sums in fp32, and the two additions (to W x, and to the gradient of x) happen inside the products. A and B
stay fp32; their gradients are added up in fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

ADAPTER = "default"
HALVES = (torch.bfloat16, torch.float16)


class _Cheaper(LoraLinear):
    """PEFT's layer with another forward, given to a layer by its class: layers of a kind stay one piece of code,
    which torch.compile compiles once.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[.., in] -> [.., out] in the base's dtype."""
        if self.merged or self.disable_adapters:
            return self.get_base_layer()(x)
        return self.adapted(x, self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight, self.scaling[ADAPTER])

    def adapted(self, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        """W x + scale * up (down x)."""
        raise NotImplementedError


class FoldedLora(_Cheaper):
    """One product with W + s B A."""

    def adapted(self, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        base = self.get_base_layer()
        return nn.functional.linear(x, base.weight + scale * (up @ down), base.bias)


class AddedLora(_Cheaper):
    """The product with B is added to W x in place."""

    def adapted(self, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        out = self.get_base_layer()(x)
        low = nn.functional.linear(self.lora_dropout[ADAPTER](x), scale * down)
        # A linear layer's backward does not look at its output, so that may be written over.
        out.view(-1, out.shape[-1]).addmm_(low.flatten(0, -2), up.T)
        return out


class SlimLora(_Cheaper):
    """All products in the base's 16 bits."""

    def adapted(self, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        base, dropped = self.get_base_layer(), self.lora_dropout[ADAPTER](x)
        down, up = (one.to(x.dtype) for one in (down, up))  # autograd casts their gradients back
        own = dropped if self.training and isinstance(self.lora_dropout[ADAPTER], nn.Dropout) else None
        return torch.ops.mmpt_lora.linear(x, own, base.weight, base.bias, down, up, scale)[0]


# One operator forward and one backward, for autograd and the compiler alike: the compiler would take the additions
# out of the products, which costs 6 % of a step of Qwen3-8B by the ledger (mmpt/bench/train_ledger.py).


@torch.library.custom_op("mmpt_lora::linear", mutates_args=())
def _linear(
    x: Tensor, y: Tensor | None, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """(W x + bias + scale * up (down y), down y), y = x where it is None; W and bias are frozen.

    x, y [.., in], W [out, in], down [r, in], up [out, r], all of one dtype -> [.., out], [tokens, r]. Three products.
    """
    out = nn.functional.linear(x, weight, bias)
    low = (x if y is None else y).flatten(0, -2) @ down.T
    out.view(-1, out.shape[-1]).addmm_(low, up.T, alpha=scale)
    return out, low


@torch.library.custom_op("mmpt_lora::linear_backward", mutates_args=())
def _linear_backward(
    grad: Tensor,
    x: Tensor,
    low: Tensor,
    weight: Tensor,
    down: Tensor,
    up: Tensor,
    scale: float,
    own: bool,
    wants_x: bool,
    wants_down: bool,
    wants_up: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, y, down, up; empty where not wanted. own: `low` was made from a y, and that is given as x.

    Five products; without a y its gradient is added to that of x inside one.
    """
    flat, inputs = grad.flatten(0, -2), x.flatten(0, -2)
    d_low = torch.addmm(low, flat, up, beta=0, alpha=scale)
    # What is not wanted is an empty tensor, each its own: an operator returns none twice.
    d_up = torch.addmm(up, flat.T, low, beta=0, alpha=scale) if wants_up else grad.new_empty(0)
    d_down = d_low.T @ inputs if wants_down else grad.new_empty(0)
    d_x, d_y = (flat @ weight if wants_x else grad.new_empty(0)), grad.new_empty(0)
    if own and wants_x:
        d_y = (d_low @ down).view(x.shape)
    elif wants_x:
        d_x.addmm_(d_low, down)
    return d_x.view(x.shape) if wants_x else d_x, d_y, d_down, d_up


@_linear.register_fake
def _(x, y, weight, bias, down, up, scale):
    tokens = x.numel() // x.shape[-1]
    return x.new_empty(*x.shape[:-1], weight.shape[0]), x.new_empty(tokens, down.shape[0])


@_linear_backward.register_fake
def _(grad, x, low, weight, down, up, scale, own, wants_x, wants_down, wants_up):
    wanted = ((x, wants_x), (x, own and wants_x), (down, wants_down), (up, wants_up))
    return tuple(grad.new_empty(like.shape if asked else (0,)) for like, asked in wanted)


def _keep(ctx, inputs, output):
    x, y, weight, _, down, up, ctx.scale = inputs
    ctx.own, ctx.wants = y is not None, [ctx.needs_input_grad[at] for at in (0, 4, 5)]
    ctx.save_for_backward(y if ctx.own else x, output[1], weight, down, up)


def _grads(ctx, grad, _):
    x, low, weight, down, up = ctx.saved_tensors
    d_x, d_y, d_down, d_up = torch.ops.mmpt_lora.linear_backward(
        grad, x, low, weight, down, up, ctx.scale, ctx.own, *ctx.wants
    )
    has_x, has_down, has_up = ctx.wants
    return (
        d_x if has_x else None,
        d_y if has_x and ctx.own else None,
        None,
        None,
        d_down if has_down else None,
        d_up if has_up else None,
        None,
    )


_linear.register_autograd(_grads, setup_context=_keep)


def fold_small_layers(lm: nn.Module) -> int:
    """Give the LoRA layers of a PEFT model their cheaper forward; returns how many are folded. Layers in other dtypes
    keep PEFT's.
    """
    layers = [module for module in lm.modules() if type(module) is LoraLinear]
    for layer in layers:
        if (kind := _kind(layer)) is not None:
            layer.__class__ = kind
    return sum(isinstance(layer, FoldedLora) for layer in layers)


def _kind(layer: LoraLinear) -> type[_Cheaper] | None:
    """Folded where that is cheaper by the count above, and exact: without dropout. None: PEFT's own forward, also for
    GPT-2's Conv1D, whose weight is [in, out].
    """
    if not isinstance(layer.get_base_layer(), nn.Linear):
        return None
    weight, rank = layer.get_base_layer().weight, layer.r[ADAPTER]
    if weight.dtype in HALVES:
        return SlimLora
    if not weight.dtype == layer.lora_A[ADAPTER].weight.dtype == torch.float32:
        return None
    rows, columns = weight.shape
    plain = isinstance(layer.lora_dropout[ADAPTER], nn.Identity)
    return FoldedLora if plain and rows * columns <= 3 * rank * (rows + columns) else AddedLora
