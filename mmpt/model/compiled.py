"""Decoder layers through torch.compile, in training: one layer's code is compiled, and all layers run it.

What is between the products (norms, rotary positions, the activation, residuals) becomes a few passes over memory
instead of some forty. The tokens of a stream and the lengths of its sequences are no constants of the
graph, so no later step compiles again. Everything but a training step (evaluation, generation, measurements) runs the
plain layers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config

from mmpt.model import attention
from mmpt.model.layers import decoder_layers
from mmpt.store.errors import UserError

KEY = "train.compile"


def compile_layers(causal: nn.Module, backend: str | Callable[..., Any] = "inductor") -> int:
    """Compile the decoder layers of a causal LM for packed streams in training; returns how many there are.

    Nothing is compiled before the first step. Without dropout the numbers are those of the plain layers to rounding;
    with it the compiler draws other random numbers, from the same seeds each time.

    Raises:
        UserError: a machine without what the backend needs; an architecture without layers; attention that is no
            single operator.
    """
    layers = decoder_layers(causal)
    if not layers:
        raise UserError("this architecture has no layers to compile", where=KEY, found=type(causal).__name__)
    device, dtype = (first := next(layers[0].parameters())).device, first.dtype
    if obstacle := attention.obstacle_to_compiling(causal.config, device, dtype):
        raise UserError("attention cannot be compiled here", where=KEY, found=obstacle, fix="leave the key out")
    if backend == "inductor":
        _require_compiler(device)
    # deterministic: no choice by a clock, the same kernels each time (gate C4). One function object a class, so one
    # cache for all of its layers. dynamic: the first sizes are no more special than the next.
    options = {"deterministic": True} if backend == "inductor" else None
    how: dict[str, Any] = {"backend": backend, "dynamic": True, "fullgraph": True, "options": options}
    kinds: list[Any] = list(dict.fromkeys(map(type, layers)))
    steps = {kind: torch.compile(kind.forward, **how) for kind in kinds}
    for layer in layers:
        layer.forward = partial(_forward, layer, type(layer).forward, steps[type(layer)])
    return len(layers)


def _forward(
    layer: nn.Module, plain: Callable[..., Tensor], step: Callable[..., Tensor], *args: Any, **options: Any
) -> Tensor:
    if not (layer.training and torch.is_grad_enabled() and options.get("packed") is not None):
        return plain(layer, *args, **options)
    # As many sequences as, say, heads in the first step is chance, not a rule for the graph.
    symbolic_shapes: Any = _config  # torch adds `patch` when it is imported
    with symbolic_shapes.patch(use_duck_shape=False):
        return step(layer, *args, **options)


def _require_compiler(device: torch.device) -> None:
    if device.type == "cuda":
        try:
            import triton  # noqa: F401  (is it there?)
        except ImportError:
            raise UserError(
                "torch.compile needs triton on this device",
                where=KEY,
                found="no triton",
                fix="pip install triton, or leave the key out",
            ) from None
    elif shutil.which(compiler := os.environ.get("CXX", "g++")) is None:  # the one that inductor calls, no other
        raise UserError(
            "torch.compile needs a C++ compiler on this device",
            where=KEY,
            found=f"no {compiler} on the path",
            fix="install it, set CXX to another, or leave the key out",
        )
