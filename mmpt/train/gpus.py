"""GPUs by the vendors' data sheets: peak of dense bf16 products, and memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Args:
        pattern: what CUDA's name of such a device matches.
        tflops: dense tensor-core peak with 16-bit inputs, TFLOP/s.
        gib: memory, GiB.
    """

    pattern: str
    tflops: float
    gib: int


# The first pattern that matches a name counts.
GPUS = {
    "h100-pcie": Gpu(r"H100 PCIe", 756, 80),
    "h100-nvl": Gpu(r"H100 NVL", 835, 94),
    "h100": Gpu(r"\bH100\b", 989, 80),
    "h200": Gpu(r"\bG?H200\b", 989, 141),
    "b200": Gpu(r"\bB200\b", 2250, 180),
    "a100-40": Gpu(r"\bA100\b.*\b40GB", 312, 40),
    "a100-80": Gpu(r"\bA100\b", 312, 80),
    "l40s": Gpu(r"\bL40S\b", 362, 48),
    "l4": Gpu(r"\bL4\b", 121, 24),
    "a10g": Gpu(r"\bA10G\b", 70, 24),
    "rtx4090": Gpu(r"RTX 4090\b", 165, 24),
}


def peak_flops(name: str, dtype: torch.dtype) -> float | None:
    """FLOP/s of a CUDA device by its name, for 16-bit weights; None: not in the table."""
    if dtype not in (torch.bfloat16, torch.float16):
        return None
    return next((gpu.tflops * 1e12 for gpu in GPUS.values() if re.search(gpu.pattern, name)), None)
