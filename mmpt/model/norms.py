"""RMSNorm of a 16-bit base in one kernel on CUDA.

transformers computes it in fp32, step by step: eleven passes over the stream forward and some twenty backward, 15 % of
a step of Qwen3-8B by the ledger (mmpt/bench/train_ledger.py). torch's own kernel reads and writes the stream once; it
rounds once, after the weight, where transformers rounds before and after it. fp32 bases, and the CPU, keep
transformers'.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmpt.model.fused_lora import HALVES

SAME = 1e-5  # of fp32 numbers: is it this norm?


class OneKernel(nn.Module):
    """Mixin that is placed before the norm's class in the method resolution order."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[.., H] -> [.., H] in the same dtype."""
        if on_kernel(hidden_states) and hidden_states.dtype == self.weight.dtype:
            return one_kernel(hidden_states, self.weight, self.variance_epsilon)
        return super().forward(hidden_states)


def on_kernel(stream: Tensor) -> bool:
    """Whether torch has the kernel for that device."""
    return stream.is_cuda


def one_kernel(stream: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """weight * stream / sqrt(mean of its squares + epsilon)."""
    return F.rms_norm(stream, (stream.shape[-1],), weight, epsilon)


def fuse_norms(lm: nn.Module) -> int:
    """Give the RMSNorms of a model in 16 bits that kernel; returns how many there are."""
    norms = [module for module in lm.modules() if _is_rms_norm(module)]
    for module in norms:
        kind: Any = type(module)
        module.__class__ = _with_kernel(kind)
    return len(norms)


@functools.cache
def _with_kernel(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (OneKernel, kind), {})


def _is_rms_norm(module: nn.Module) -> bool:
    """By its fields, and by what it computes: Gemma's, for one, adds 1 to the weight."""
    weight = getattr(module, "weight", None)
    if not hasattr(module, "variance_epsilon") or weight is None or weight.dtype not in HALVES or weight.ndim != 1:
        return False
    alike = copy.deepcopy(module).to_empty(device="cpu").float()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        alike.weight.copy_(torch.randn(weight.shape, generator=generator))
        stream = torch.randn(3, len(weight), generator=generator)
        expected = one_kernel(stream, alike.weight, alike.variance_epsilon)
        try:
            return torch.allclose(alike(stream), expected, rtol=SAME, atol=SAME)
        except TypeError:  # a gated norm (Qwen3-Next) has a second input
            return False
