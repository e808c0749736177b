"""Losses of the published checkpoint by the independent scorer (`mmpt.model.plain`), for gate B1.

The losses that training reports come from its own packing, masks and kernels, and share their faults. Here the same
test items are scored from the files alone, and by payload position: a model that learned one half of a picture is
otherwise as good, on the mean, as one that learned a little of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from mmpt.model.plain import PlainLM, Scored, sequence
from mmpt.shards.example_set import ExampleSet
from mmpt.shards.shard_set import ShardSet
from mmpt.store.evidence import Metric
from mmpt.store.stage import StageContext
from mmpt.store.tasks import EMIT_TASKS, MODALITY_OF
from mmpt.tokens.space import TokenSpace
from mmpt.train.evidence import interval

HALVES = ("first", "second")


def independent_scores(
    ctx: StageContext, checkpoint: Path, space: TokenSpace, chosen: Mapping[str, tuple[ExampleSet, Sequence[int]]]
) -> dict[str, list[Scored]]:
    """Scores of each task's items under a checkpoint folder. chosen: task -> (examples, indices)."""
    if ctx.device != "cpu":
        torch.cuda.empty_cache()  # the trainer's blocks; its model is still there
    dtype = getattr(torch, ctx.dtype)
    model = PlainLM.open(ctx.inputs["base"] / "model", checkpoint, space, device=ctx.device, dtype=dtype)
    found = {}
    for task, (examples, indices) in chosen.items():
        pairs = [(examples.text_ids(i), examples.payload_ids(i)) for i in indices]
        pairs = pairs if task in EMIT_TASKS else [(payload, text) for text, payload in pairs]
        found[task] = model.score([sequence(space, task, source, target) for source, target in pairs])
    return found


def independent_metrics(
    ctx: StageContext,
    checkpoint: Path,
    space: TokenSpace,
    chosen: Mapping[str, tuple[ExampleSet, Sequence[int]]],
    trainer: Mapping[str, Sequence[float]],
) -> list[Metric]:
    """All of B1 that comes from the files. trainer: the losses that training reports of the same items."""
    scores = independent_scores(ctx, checkpoint, space, chosen)
    return [*unigram_metrics(ctx, space, chosen, scores), *agreement_metrics(scores, trainer)]


def unigram_cost(space: TokenSpace, train_ids: Iterable[np.ndarray]) -> np.ndarray:
    """-log share, nats, float64 [vocab_size_total], of each payload id in its segment of the train split.

    train_ids: int32, all payload ids of the train split, in parts. Every count starts at one.
    """
    counts = np.ones(space.vocab_size_total)
    for part in train_ids:
        counts += np.bincount(part, minlength=space.vocab_size_total)
    cost = np.zeros(space.vocab_size_total)
    for name, segment in space.ranges.items():
        if name == "IMAGE" or name.startswith("AUDIO_CB"):
            inside = counts[segment.start : segment.stop]
            cost[segment.start : segment.stop] = -np.log(inside / inside.sum())
    return cost


def unigram_metrics(
    ctx: StageContext,
    space: TokenSpace,
    chosen: Mapping[str, tuple[ExampleSet, Sequence[int]]],
    scores: Mapping[str, Sequence[Scored]],
) -> list[Metric]:
    """B1 of the emit tasks: loss inside the segment less the unigram's, over the payload and over each half of it."""
    metrics = []
    for task in sorted(set(scores) & set(EMIT_TASKS)):
        examples, indices = chosen[task]
        train = ShardSet.open(ctx.inputs["shards"], MODALITY_OF[task], "train", space)
        cost = unigram_cost(space, train.ids_by_shard())
        payloads = [examples.payload_ids(i) for i in indices]
        width = space.stream.step if task == "t2a" else 1
        # Difference at each payload position of each item.
        apart = [one.inside[: len(ids)] - cost[ids] for one, ids in zip(scores[task], payloads, strict=True)]
        metrics.append(_below("loss_minus_unigram_nats", [one.mean() for one in apart], task, ctx.seed))
        for which, part in zip(HALVES, zip(*(halves(one, width) for one in apart), strict=True), strict=True):
            means = [one.mean() for one in part if len(one)]
            metrics.append(_below("half_minus_unigram_nats", means, f"{task}.{which}", ctx.seed))
    return metrics


def halves(values: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The two halves of an item's payload positions, cut between frames of `width` ids."""
    middle = len(values) // width // 2 * width
    return values[:middle], values[middle:]


def agreement_metrics(scores: Mapping[str, Sequence[Scored]], trainer: Mapping[str, Sequence[float]]) -> list[Metric]:
    """B1: how far the trainer's losses of the same items are from the independent ones, mean absolute difference.

    trainer: task -> mean loss of each item over payload and end token, nats.
    """
    metrics = []
    for task in sorted(scores):
        mine, theirs = np.array([one.nll.mean() for one in scores[task]]), np.asarray(trainer.get(task, ()))
        alike = len(mine) == len(theirs) > 0
        value = float(np.abs(mine - theirs).mean()) if alike else None
        metrics.append(Metric("scoring_difference_nats", value, len(theirs), "nats/token", "lower", slice=task))
    return metrics


def _below(name: str, values: Sequence[float], slice: str, seed: int) -> Metric:
    found = np.asarray(values, np.float64)
    low, high = interval(found, seed)
    value = float(found.mean()) if len(found) else None
    return Metric(name, value, len(found), "nats/token", "lower", low, high, slice)
