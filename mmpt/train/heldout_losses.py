"""Held-out losses of a training run, for the choice of the best checkpoint and for gate B1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmpt.shards.example_set import ExampleSet
from mmpt.store.stage import StageContext
from mmpt.train.heldout import item_losses, sample
from mmpt.train.preparation import Prepared, example_sets, ramp_end

VAL_ITEMS, TEST_ITEMS = 24, 64  # a task, for the choice of the best checkpoint and for gate B1
CURVE_POINTS = 10  # steps before the end at which test losses are measured, for the report's curves


class HeldoutLosses:
    """Held-out losses of a run: val at the saves, test at the ramp's end, at CURVE_POINTS steps and at the end."""

    def __init__(self, ctx: StageContext, ready: Prepared):
        self.model, self.settings = ready.model, ready.settings
        self.row_len, self.ramp_end = ready.loader.row_len, ramp_end(ready.loader)
        self.curve = curve_steps(self.settings.steps)
        self.best = keeps_best(ctx)
        weights = ctx.profile["mixture.weights"]
        self.val = example_sets(ctx, ready.model.space, weights, "val")
        self.test = example_sets(ctx, ready.model.space, weights, "test")

    def measure(self, step: int) -> dict[str, Any]:
        """{"val": {task: mean}, "test": {task: item means}}, each where it is due. Test losses judge the checkpoint
        that is kept, which val losses choose.
        """
        saved = step % self.settings.save_every == 0
        shown = step in self.curve
        ended = step == self.settings.steps or not (saved or shown or step == self.ramp_end)
        out: dict[str, Any] = {"val": None, "test": None}
        if saved or ended:
            losses = self._losses(self.val, VAL_ITEMS)
            out["val"] = {task: float(one.full.mean()) for task, one in losses.items()}
        if ended or shown or step == self.ramp_end or (self.best and saved and step > self.ramp_end):
            losses = self._losses(self.test, TEST_ITEMS)
            out["test"] = {task: one.full.tolist() for task, one in losses.items()}
        return out

    def _losses(self, sets: dict[str, ExampleSet], count: int):
        return {
            task: item_losses(self.model, examples, sample(examples, count), self.row_len)
            for task, examples in sets.items()
            if len(examples)
        }

    def tested(self) -> dict[str, tuple[ExampleSet, list[int]]]:
        """Task -> (test examples, indices of those that are measured)."""
        return {task: (one, sample(one, TEST_ITEMS)) for task, one in self.test.items() if len(one)}


def curve_steps(steps: int) -> frozenset[int]:
    """Where the test losses of the report's curves are measured: evenly spaced steps of a run of `steps`, from 0."""
    return frozenset(steps * i // CURVE_POINTS for i in range(CURVE_POINTS))


def loss_curve(measured: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Test losses over the steps, for the report: [{"step", "test": {task: mean}}], nats per token."""
    found = {int(step): one["test"] for step, one in measured.items() if one["test"]}
    return [
        {"step": step, "test": {task: float(np.mean(items)) for task, items in found[step].items()}}
        for step in sorted(found)
    ]


def keeps_best(ctx: StageContext) -> bool:
    """Whether the best checkpoint on val is judged and released, and not the last one (train.keep)."""
    return bool(ctx.profile.get("train.keep", "last") == "best")


def chosen(val: Mapping[str, Mapping[str, float] | None], last: str) -> str:
    """The checkpoint with the lowest mean over the tasks of the val loss; `last` where none has one."""
    means = {name: float(np.mean(list(losses.values()))) for name, losses in val.items() if losses}
    return min(means, key=lambda name: means[name]) if means else last
