"""Does the model use its condition: losses of a target after its own, a swapped and an empty condition.

Only payload tokens count (no start or end tokens), each against the whole vocabulary. The condition is the
prompt of t2a and t2i, the medium of a2t and i2t; an empty condition exists for prompts only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmpt.evaluate.scoring import item_means, target_losses
from mmpt.evaluate.sets import Record
from mmpt.evaluate.statistics import Interval, mean_interval, win_rate
from mmpt.store.evidence import Metric
from mmpt.store.tasks import EMIT_TASKS
from mmpt.tokens import TokenSpace, prompt


@dataclass(frozen=True)
class Ablation:
    """Losses of one task's items, nats a payload token, each float64 [n]; `empty` is None for read tasks."""

    task: str
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    correct: np.ndarray
    swapped: np.ndarray
    empty: np.ndarray | None

    def gap(self, worse: np.ndarray) -> np.ndarray:
        return worse - self.correct

    def tensors(self) -> dict[str, np.ndarray]:
        """The losses by condition."""
        found = {"correct": self.correct, "swapped": self.swapped}
        return found if self.empty is None else {**found, "empty": self.empty}

    @staticmethod
    def restored(records: Sequence[Record], stored: Mapping[str, np.ndarray]) -> Ablation:
        """Of `tensors`, and the records that were measured, in their order."""
        return _named(records, stored["correct"], stored["swapped"], stored.get("empty"))

    @staticmethod
    def of_rows(records: Sequence[Record], rows: Sequence[Mapping[str, Any]]) -> Ablation:
        """Of `rows`, and the records that were measured, in their order. Raises ValueError on other items."""
        if [row["id"] for row in rows] != [record["id"] for record in records]:
            raise ValueError("the ablation losses are not of the ablation set's items")
        correct, swapped = (np.array([row[f"loss_{name}"] for row in rows]) for name in ("correct", "swapped"))
        emits = rows[0]["loss_empty"] is not None
        return _named(records, correct, swapped, np.array([row["loss_empty"] for row in rows]) if emits else None)

    def rows(self, step: int) -> list[dict[str, Any]]:
        """One row per item (schema ablation_loss), to the last digit: gates B3 and C2 rest on them."""
        empty = [None] * len(self.ids) if self.empty is None else self.empty.tolist()
        return [
            {
                "step": step,
                "task": self.task,
                "id": name,
                "group": group,
                "loss_correct": float(right),
                "loss_swapped": float(wrong),
                "loss_empty": none,
            }
            for name, group, right, wrong, none in zip(
                self.ids, self.groups, self.correct, self.swapped, empty, strict=True
            )
        ]


def ablate(
    model, space: TokenSpace, records: Sequence[Record], progress: Callable[[int, int], None] | None = None
) -> Ablation:
    """The losses of one task's ablation records. All conditions run as one list, so that batches are full."""
    task = records[0]["task"]
    emits = task in EMIT_TASKS
    conditions = [
        [record["prompt_ids"] for record in records],
        [record["swap_prompt_ids"] for record in records],
    ]
    conditions += [[[]] * len(records)] if emits else []
    prompts = [prompt(space, task, ids) for condition in conditions for ids in condition]
    targets = [np.asarray(record["target_ids"], np.int64) for record in records] * len(conditions)
    means = item_means(target_losses(model, prompts, targets, progress=progress)).reshape(len(conditions), -1)
    return _named(records, means[0], means[1], means[2] if emits else None)


def _named(records: Sequence[Record], correct: np.ndarray, swapped: np.ndarray, empty: np.ndarray | None) -> Ablation:
    ids, groups = (tuple(record[key] for record in records) for key in ("id", "group"))
    return Ablation(records[0]["task"], ids, groups, correct, swapped, empty)


def gap_interval(ablation: Ablation, worse: np.ndarray, resamples: int, seed: int) -> Interval:
    return mean_interval(ablation.gap(worse), ablation.groups, resamples=resamples, seed=seed)


def gap_metrics(ablation: Ablation, resamples: int, seed: int) -> list[Metric]:
    """gap_swapped_nats, win_rate_swapped and, for t2a and t2i, the same against the empty prompt."""
    metrics = []
    for name, worse in (("swapped", ablation.swapped), ("empty", ablation.empty)):
        if worse is not None:
            interval = gap_interval(ablation, worse, resamples, seed)
            metrics += [
                interval.metric(f"gap_{name}_nats", slice=ablation.task),
                Metric(
                    f"win_rate_{name}",
                    win_rate(ablation.correct, worse),
                    len(worse),
                    "share",
                    "higher",
                    slice=ablation.task,
                ),
            ]
    return metrics


def growth(after: Ablation, before: Ablation, resamples: int, seed: int, against: str = "swapped") -> Interval:
    """(gap after - gap before) to swapped or empty prompts, paired by item. Raises ValueError on unlike items."""
    if after.ids != before.ids:
        raise ValueError("the two ablations are not of the same items")
    difference = after.gap(getattr(after, against)) - before.gap(getattr(before, against))
    return mean_interval(difference, after.groups, resamples=resamples, seed=seed)


def swap_metrics(records: Sequence[Record], shown: Mapping[str, Record]) -> list[Metric]:
    """Is the swapped set what it claims: pairs of one group, with the same prompt, or whose swapped prompt is true
    of the medium; and unlike lengths.

    `records`: ablation records of t2a or t2i; `shown`: shard records by id, for attributes and mentions.
    """
    task = records[0]["task"]
    invalid = sum(
        record["group"] == record["swap_group"]
        or record["prompt_ids"] == record["swap_prompt_ids"]
        or _is_true(shown[record["swap_id"]], of=shown[record["id"]])
        for record in records
    )
    apart = [abs(len(r["swap_prompt_ids"]) - len(r["prompt_ids"])) / max(1, len(r["prompt_ids"])) for r in records]
    return [
        Metric("invalid_swaps", invalid, len(records), "items", "lower", slice=task),
        Metric("swap_length_difference", float(np.mean(apart)), len(records), "share", "lower", slice=task),
    ]


def _is_true(speaker: Record, of: Record) -> bool:
    """Does all that the speaker's caption mentions hold of another record? Unknown where attributes are not given."""
    if not (speaker["attributes"] and speaker["mentioned"] and of["attributes"]):
        return False
    return all(of["attributes"].get(name) == speaker["attributes"][name] for name in speaker["mentioned"])


def report(ablation: Ablation, resamples: int, seed: int) -> dict[str, Any]:
    """One task's entry of prompt_ablation.json."""
    entry: dict[str, Any] = {
        "n_examples": len(ablation.ids),
        "loss_correct_mean": float(ablation.correct.mean()),
    }
    for name, worse in (("swapped", ablation.swapped), ("empty", ablation.empty)):
        if worse is not None:
            interval = gap_interval(ablation, worse, resamples, seed)
            entry[f"loss_{name}_mean"] = float(worse.mean())
            entry[f"win_rate_{name}"] = win_rate(ablation.correct, worse)
            entry[f"gap_{name}"] = {"mean": interval.value, "ci_low": interval.low, "ci_high": interval.high}
    return entry
