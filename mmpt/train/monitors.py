"""What stops a diverging run (gate B2): not-finite numbers, an exploding gradient, new rows that jump."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import Any

WINDOW = 100  # steps that the running median of the gradient norm looks back on
ENOUGH = 10  # norms before that median is used
GRAD_FACTOR = 100.0
ROW_FACTOR = 3.0
SMALLEST_NORM = 1e-30  # stands for a median of zero


@dataclass
class Monitors:
    """Watches a run; a method returns the reason to stop, or None.

    Args:
        start: the first step that is judged by ratios (after warm-up and ramp); NaN and Inf are judged
        always.
    """

    start: int
    norms: list[float] = field(default_factory=list)
    rows: dict[str, float] = field(default_factory=dict)
    nonfinite_steps: int = 0
    judged_steps: int = 0
    judged_intervals: int = 0
    clipped_steps: int = 0
    steps: int = 0
    worst_grad_ratio: float = 0.0
    worst_row_jump: float = 0.0

    def after_backward(self, step: int, objective: float, norm: float, clip: float) -> str | None:
        """Judge a step's objective and gradient norm (before clipping), before the optimizer uses them."""
        if not (math.isfinite(objective) and math.isfinite(norm)):
            self.nonfinite_steps += 1
            return f"step {step}: objective {objective}, gradient norm {norm}"
        reason = None
        if step >= self.start and len(self.norms) >= ENOUGH:
            ratio = norm / max(statistics.median(self.norms), SMALLEST_NORM)
            self.judged_steps += 1
            self.worst_grad_ratio = max(self.worst_grad_ratio, ratio)
            if ratio > GRAD_FACTOR:
                reason = f"step {step}: gradient norm {norm:.4g} is {ratio:.0f} times its running median"
        self.norms = [*self.norms, norm][-WINDOW:]
        self.steps += 1
        self.clipped_steps += norm > clip
        return reason

    def at_log(self, step: int, rows: dict[str, float]) -> str | None:
        """Judge the growth of the new rows' norms since the last log; `rows` by matrix and segment."""
        before, self.rows = self.rows, dict(rows)
        if step <= self.start or not before:
            return None
        self.judged_intervals += 1
        name, jump = max(((key, rows[key] / max(before[key], SMALLEST_NORM)) for key in rows), key=lambda pair: pair[1])
        self.worst_row_jump = max(self.worst_row_jump, jump)
        if jump > ROW_FACTOR:
            return f"step {step}: norm of {name} grew {jump:.2f} times in a log interval"
        return None

    def state(self) -> dict[str, Any]:
        """As JSON; floats survive it exactly."""
        return dict(vars(self))

    @classmethod
    def of(cls, state: dict[str, Any]) -> Monitors:
        """The inverse of `state`."""
        return cls(**state)
