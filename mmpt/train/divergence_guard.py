"""The monitors' verdict on a step, computed on the device: may the weights change? The host reads it later.

`DivergenceGuard` computes what `Monitors.after_backward` will compute from the same fp64 numbers, so both always agree;
the optimizer takes its word as `found_inf`, and once it said stop, no further step changes anything.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmpt.train.monitors import ENOUGH, GRAD_FACTOR, SMALLEST_NORM, WINDOW, Monitors


class DivergenceGuard:
    """Goes on from a run's monitors.

    Attributes:
        stopped: fp32 scalar on the device, 1 from the first step on that must not change the weights, else 0.
    """

    def __init__(self, monitors: Monitors, device: torch.device):
        self.start, self.seen = monitors.start, len(monitors.norms)
        self.stopped = torch.zeros((), dtype=torch.float32, device=device)
        kept = [*monitors.norms, *[0.0] * (WINDOW - self.seen)]
        self._norms = torch.tensor(kept, dtype=torch.float64, device=device)

    def judge(self, step: int, objective: Tensor, norm: Tensor) -> None:
        """A step's objective and gradient norm, fp64 scalars on the device; steps come in order."""
        bad = ~(torch.isfinite(objective) & torch.isfinite(norm))
        known = min(self.seen, WINDOW)
        if step >= self.start and known >= ENOUGH:
            ordered = self._norms[:known].sort().values
            median = (ordered[(known - 1) // 2] + ordered[known // 2]) / 2
            bad |= norm / median.clamp_min(SMALLEST_NORM) > GRAD_FACTOR
        self.stopped = torch.maximum(self.stopped, bad.float())
        self._norms[self.seen % WINDOW] = norm
        self.seen += 1
