"""The precision settings of CUDA computations; a module of its own, because codecs need no more of this package."""

from __future__ import annotations


def exact_arithmetic() -> None:
    """No TF32 and no choice of kernels by a clock, for every network on CUDA, codecs included.

    cuDNN's convolutions use TF32 (10 bits of mantissa) unless that is switched off; a codec that encodes in batches of
    another shape would give other codes.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
