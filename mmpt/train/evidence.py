"""Evidence of gates B1 (losses) and B2 (stability) from a finished or stopped run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmpt.store.evidence import Metric
from mmpt.store.tasks import EMIT_TASKS
from mmpt.train.monitors import Monitors

RESAMPLES = 1000


def loss_metrics(start: Mapping[str, list[float]], end: Mapping[str, Any]) -> list[Metric]:
    """B1's falls and rises. `start`, `end`: full test losses by task and item at the ramp's end and at the end (missing
    where the run stopped before).
    """
    out = []
    for task in sorted(end):
        n = len(end[task]) if task in start else 0
        ratio = float(np.mean(end[task]) / np.mean(start[task])) if n else None
        if task in EMIT_TASKS:
            out.append(
                Metric("loss_drop_share", None if ratio is None else 1 - ratio, n, "share", "higher", slice=task)
            )
        else:
            out.append(Metric("loss_rise_share", None if ratio is None else ratio - 1, n, "share", "lower", slice=task))
    return out


def stability_metrics(monitors: Monitors, done: int, planned: int) -> list[Metric]:
    """B2. n: steps tried, and for the ratios the steps and log intervals that were judged by them, which is none
    in a run that ends with its ramp.
    """
    values = (
        ("nonfinite_steps", monitors.nonfinite_steps, monitors.steps + monitors.nonfinite_steps, "steps"),
        ("grad_norm_over_median", monitors.worst_grad_ratio, monitors.judged_steps, "x"),
        ("row_norm_jump", monitors.worst_row_jump, monitors.judged_intervals, "x"),
        ("steps_missing", planned - done, planned, "steps"),
        ("clipped_share", monitors.clipped_steps / max(monitors.steps, 1), monitors.steps, "share"),
    )
    return [Metric(name, value, n, unit, "lower") for name, value, n, unit in values]


def interval(values: np.ndarray, seed: int) -> tuple[float | None, float | None]:
    """95 % bootstrap interval of the mean over items; (None, None) for fewer than two."""
    if len(values) < 2:
        return None, None
    picks = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[picks].mean(1), [0.025, 0.975])
    return float(low), float(high)
