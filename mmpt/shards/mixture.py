"""The task mixture: how many examples of each task a step holds, as a pure function of the global step.

A weight is a task's share of the *examples* (not of the tokens) of a step. Fractional shares are apportioned
by systematic sampling along a golden-ratio sequence: each count is its quota rounded up or down, a step's
total too, and over steps the error of a task's running count stays of the order of one example instead of
accumulating.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mmpt.store.errors import UserError
from mmpt.store.tasks import READ_TASKS, TASKS

KINDS = (*TASKS, "text")
"""Index of a kind here is its number in ``Batch.task``."""

_PHI = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Mixture:
    """Weights, ramp and step size.

    Args:
        weights: share of the examples by kind (tasks and "text"), any scale; a kind left out has none.
        mean_lengths: mean tokens of an example by kind, for kinds with a weight.
        tokens_per_step: tokens that a step's examples should hold together, in the mean; padding is not
            counted, and dropped prompts leave a step a little under it.
        ramp_start: before this step emit tasks (t2a, t2i) have no share; their share goes to the read tasks.
        ramp_steps: steps over which the shares then move linearly to ``weights``, reached at ramp_start +
            ramp_steps.
        seed: shifts the apportioning sequence.
    """

    weights: Mapping[str, float]
    mean_lengths: Mapping[str, float]
    tokens_per_step: int
    ramp_start: int = 0
    ramp_steps: int = 0
    seed: int = 0
    _target: np.ndarray = field(init=False, repr=False, compare=False)
    _start: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        target = self._normalised()
        read = np.array([kind in READ_TASKS or kind == "text" for kind in KINDS])
        start = np.where(read, target, 0.0)
        if self.ramp_start + self.ramp_steps > 0:
            tasks = np.array([kind in READ_TASKS for kind in KINDS])
            if not (target * tasks).sum() > 0:
                raise UserError(
                    "the ramp starts with the read tasks, but they have no weight",
                    where="mixture.ramp",
                    found="mixture.weights.a2t and .i2t of 0",
                    fix="set mixture.ramp to 0",
                )
            emitted = target[~read].sum()
            start = np.where(tasks, target * (1 + emitted / (target * tasks).sum()), start)
        object.__setattr__(self, "_target", target)
        object.__setattr__(self, "_start", start)

    def _normalised(self) -> np.ndarray:
        if unknown := sorted(set(self.weights) - set(KINDS)):
            raise UserError(
                f"unknown task {unknown[0]!r}",
                where="mixture.weights",
                expected=f"some of {', '.join(KINDS)}",
            )
        weights = np.array([float(self.weights.get(kind, 0.0)) for kind in KINDS])
        if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
            raise UserError(
                "weights must be finite, none negative, not all 0",
                where="mixture.weights",
                found=dict(self.weights),
            )
        for kind, weight in zip(KINDS, weights, strict=True):
            if weight > 0 and not self.mean_lengths.get(kind, 0) > 0:
                raise UserError(
                    f"{kind} has a weight but no examples",
                    where=f"mixture.weights.{kind}",
                    found=weight,
                    fix=f"set mixture.weights.{kind} to 0" if kind != "text" else "set mixture.text_replay to 0",
                )
        if self.tokens_per_step < 1:
            raise UserError(
                "a step needs tokens",
                where="tokens_per_step",
                found=self.tokens_per_step,
                expected="at least 1",
            )
        return weights / weights.sum()

    def shares(self, steps: np.ndarray | int) -> np.ndarray:
        """float64 [.., len(KINDS)]: share of the examples by kind at each step; sums to 1."""
        steps = np.asarray(steps, dtype=np.float64)[..., None]
        if self.ramp_steps > 0:
            moved = np.clip((steps - self.ramp_start) / self.ramp_steps, 0.0, 1.0)
        else:
            moved = (steps >= self.ramp_start).astype(np.float64)
        return (1 - moved) * self._start + moved * self._target

    def quotas(self, steps: np.ndarray | int) -> np.ndarray:
        """float64 [.., len(KINDS)]: examples expected by kind, at least one; of tokens_per_step tokens."""
        shares = self.shares(steps)
        mean = shares @ np.array([float(self.mean_lengths.get(kind, 0.0)) for kind in KINDS])
        return shares * np.maximum(self.tokens_per_step / mean, 1.0)[..., None]

    def counts(self, step: int) -> dict[str, int]:
        """Examples of each kind at ``step``."""
        return dict(zip(KINDS, self.count_table(np.array([step]))[0].tolist(), strict=True))

    def count_table(self, steps: np.ndarray) -> np.ndarray:
        """int64 [S, len(KINDS)]: ``counts`` for many steps; row by row independent of what else is asked."""
        offset = ((np.asarray(steps, dtype=np.float64) + 1 + self.seed % 65536) * _PHI) % 1.0
        # Rounded, so that quotas that add up to a whole number do so in floating point too.
        ends = np.round(np.cumsum(self.quotas(steps), axis=-1), 9)
        reached = np.floor(ends + offset[:, None])
        return np.diff(reached, axis=-1, prepend=np.floor(offset)[:, None]).astype(np.int64)
