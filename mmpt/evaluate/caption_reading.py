"""Free-running captions judged by what they say: their attributes (gate Q1), their words against other media (R1).

An output that is no caption (empty, cut off, text of the replay, words of the other modality) counts as wrong. Nothing
in here runs a model: it reads the rows of golden outputs as stage `generate` wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmpt.corpus import oracle
from mmpt.corpus.caption_attributes import CaptionReading, read_caption
from mmpt.evaluate.quality import Row, token_f1
from mmpt.evaluate.statistics import Interval, mean_interval
from mmpt.store.evidence import Metric
from mmpt.store.tasks import MODALITY_OF

BLIND_CANDIDATES = 128  # training captions that a blind caption is chosen from, and as many that it is chosen for


def described(rows: Sequence[Row]) -> list[Row]:
    """The rows whose media have attributes."""
    return [row for row in rows if row["attributes"]]


def readings(rows: Sequence[Row]) -> list[CaptionReading]:
    """What each output states."""
    return [read_caption(MODALITY_OF[row["task"]], row["text"] or "", ended=row["ended"]) for row in rows]


def accuracies(rows: Sequence[Row], read: Sequence[CaptionReading]) -> dict[str, tuple[float | None, int]]:
    """Attribute -> (share of the outputs that state it and are right, outputs judged).

    Judged are outputs that state the attribute and outputs that are no caption. None where no output is judged.
    """
    hits: dict[str, list[bool]] = {name: [] for name in rows[0]["attributes"]}
    for row, one in zip(rows, read, strict=True):
        for name, right in one.hits(row["attributes"]).items():
            hits[name].append(right)
    return {name: (float(np.mean(found)) if found else None, len(found)) for name, found in hits.items()}


def stated_shares(rows: Sequence[Row], read: Sequence[CaptionReading]) -> dict[str, float]:
    """Attribute -> share of all outputs that state it: leaving out what is hard is no way to be right."""
    return {name: float(np.mean([name in one.stated for one in read])) for name in rows[0]["attributes"]}


def swapped_accuracies(rows: Sequence[Row], read: Sequence[CaptionReading]) -> dict[str, float]:
    """Attribute -> accuracy of the same outputs as captions of every medium of another group; never under a guess.

    This is what outputs of this kind reach without looking at their medium.
    """
    hits: dict[str, list[float]] = {name: [] for name in rows[0]["attributes"]}
    for row in rows:
        for other, one in zip(rows, read, strict=True):
            if other["group"] != row["group"]:
                for name, right in one.hits(row["attributes"]).items():
                    hits[name].append(right)
    return {name: max(oracle.chance(name), float(np.mean(found or [0.0]))) for name, found in hits.items()}


def attribute_metrics(rows: Sequence[Row], prefix: str = "") -> tuple[list[Metric], dict[str, float]]:
    """Q1's metrics of one task's outputs under one decoding; attribute -> accuracy. Slices <task>.<attribute>, <task>.

    prefix: of the metrics' names, "sampled_" for outputs at temperature 1.
    """
    task, read = rows[0]["task"], readings(rows)
    found, chance, stated = accuracies(rows, read), swapped_accuracies(rows, read), stated_shares(rows, read)
    metrics = []
    for name, (value, n) in found.items():
        at = f"{task}.{name}"
        metrics += [
            Metric(f"{prefix}caption_accuracy", value, n, "share", "higher", slice=at),
            Metric(f"{prefix}caption_chance", chance[name], n, "share", "none", slice=at),
            Metric(f"{prefix}caption_stated", stated[name], len(rows), "share", "higher", slice=at),
        ]
    values = [value for value, _ in found.values() if value is not None]
    mean = float(np.mean(values)) if len(values) == len(found) else None
    none = float(np.mean([bool(one.fault) for one in read]))
    metrics += [
        Metric(f"{prefix}caption_mean_accuracy", mean, len(rows), "share", "higher", slice=task),
        Metric(f"{prefix}no_caption_rate", none, len(rows), "share", "lower", slice=task),
    ]
    return metrics, {name: value for name, (value, _) in found.items() if value is not None}


def wrong_samples(rows: Sequence[Row], limit: int = 8) -> list[dict[str, Any]]:
    """Up to `limit` outputs that are no caption or wrong about an attribute, each with what is wrong."""
    samples: list[dict[str, Any]] = []
    for row, one in zip(rows, readings(rows), strict=True):
        wrong = [name for name, right in one.hits(row["attributes"]).items() if not right]
        if wrong and len(samples) < limit:
            samples.append(
                {
                    "id": row["id"],
                    "task": row["task"],
                    "caption": row["caption"],
                    "output": row["text"],
                    "wrong": one.fault or ", ".join(wrong),
                }
            )
    return samples


def said(row: Row) -> str:
    """The output's words; none where the model did not end it."""
    return (row["text"] or "") if row["ended"] else ""


def word_gains(rows: Sequence[Row], blind: str, resamples: int, seed: int) -> dict[str, Interval]:
    """How many more words a caption shares with its own medium's caption, than which other one: token F1, paired.

    over_swapped: the outputs for the media of other groups, their mean. over_blind: `blind`, one caption for all.
    Groups of rows are drawn together; an output that was cut off has no words.
    """
    outputs, groups = [said(row) for row in rows], [row["group"] for row in rows]
    own = np.array([token_f1(output, row["caption"]) for output, row in zip(outputs, rows, strict=True)])
    others = np.array([_mean_f1(outputs, groups, row) for row in rows])
    without = np.array([token_f1(blind, row["caption"]) for row in rows])
    paired = ~np.isnan(others)
    if not paired.any():
        return {}
    names = np.array(groups)
    return {
        "over_swapped": mean_interval((own - others)[paired], names[paired], resamples=resamples, seed=seed),
        "over_blind": mean_interval(own - without, names, resamples=resamples, seed=seed),
    }


def _mean_f1(outputs: Sequence[str], groups: Sequence[str], row: Row) -> float:
    """Mean F1 of the outputs of other groups against the row's caption; NaN where there is no other group."""
    found = [token_f1(one, row["caption"]) for one, group in zip(outputs, groups, strict=True) if group != row["group"]]
    return float(np.mean(found)) if found else float("nan")


def blind_caption(captions: Sequence[str]) -> str:
    """The one caption that shares most words with the others: the best answer without looking at the medium.

    captions: of the training media. Chosen among BLIND_CANDIDATES spread evenly over them.
    """
    places = np.unique(np.linspace(0, len(captions) - 1, BLIND_CANDIDATES).astype(int))
    chosen = [captions[i] for i in places]
    return max(dict.fromkeys(chosen), key=lambda one: sum(token_f1(one, other) for other in chosen))


def gain_metrics(gains: Mapping[str, Interval], task: str) -> list[Metric]:
    """R1's metrics of one task: caption_gain_over_swapped, caption_gain_over_blind, in token F1."""
    return [one.metric(f"caption_gain_{name}", unit="F1", slice=task) for name, one in gains.items()]
