"""Gate L1's measure: is a position trained to predict its own token, and do decoding steps predict what teacher
forcing predicts.

A model whose labels were shifted twice has a falling loss and learns the token after the next one. So the loss of
each payload token is compared with those of the tokens one and two places, and one frame, before and after it, under
the same predictions: it must be the least.

Tokens before a position are in the model's input, and a model of media that change slowly rightly gives its
probability to a repetition: where the change comes, the earlier token has the lower loss. Such a model still predicts
its own tokens about as well as the bigram of the train split does. A model that copies its input does not. So for a
shift backwards only what the own loss exceeds the bigram's by, less SLACK, is compared with the loss of copying.

The scoring is apart from that of training: one sequence at a time, without packing, labels made here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmpt.evaluate.sets import Record, record_prompt
from mmpt.evaluate.statistics import mean_interval
from mmpt.generate import Generated, generate
from mmpt.generate.mass import measured
from mmpt.shards.shard_set import ShardSet
from mmpt.store.evidence import Metric
from mmpt.store.tasks import EMIT_TASKS, MODALITY_OF
from mmpt.tokens import Grammar, TokenSpace

ITEMS = 64  # of a task
SHIFTS = (-2, -1, 1, 2)
AT_ONCE = 256  # positions whose logits over the whole vocabulary are held at once
BIGRAM_RECORDS = 2000  # of the train split, evenly spread
SLACK = 0.5  # nats per token above the bigram: a model that is no copy and worse than that fails B1
SMOOTHING = 1.0  # counts that the unigram is worth
# Nats by which rounding may move a token's log-probability, in the mean: a decoding step multiplies other shapes.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3, torch.bfloat16: 1e-1, torch.float16: 2e-2}
TINY = 1e-30


@dataclass(frozen=True)
class Scored:
    """One item under teacher forcing.

    group: of its record. target: int64 [T]. losses: shift -> float64 [T], nats of the token `shift` places further
    under the prediction for this place; NaN where there is none. 0 is the own token.
    """

    group: str
    target: np.ndarray
    losses: Mapping[int, np.ndarray]


def shifts_of(space: TokenSpace, task: str) -> tuple[int, ...]:
    """Shifts to compare: two tokens either way, and to the next frame of a sound's row."""
    frame = space.stream.step if task == "t2a" else 0
    return tuple(sorted({*SHIFTS, frame, -frame} - {0}))


@torch.no_grad()
def score(model: Any, space: TokenSpace, record: Record, shifts: Sequence[int]) -> Scored:
    """The losses of one record's target and of its shifted targets, full softmax, one forward of this item alone."""
    given, target = record_prompt(space, record), np.asarray(record["target_ids"], np.int64)
    whole = torch.as_tensor(np.concatenate([given, target])[None], dtype=torch.int64, device=model.device)
    hidden = model.hidden(whole)[0, len(given) - 1 : -1]  # its place p predicts target[p]
    padded = {s: _shifted(target, s) for s in (0, *shifts)}
    parts: dict[int, list[np.ndarray]] = {s: [] for s in padded}
    for start in range(0, len(target), AT_ONCE):
        logits = model.logits(hidden[None, start : start + AT_ONCE])[0].float()
        total = logits.logsumexp(-1)
        for s, labels in padded.items():
            wanted = torch.as_tensor(labels[start : start + AT_ONCE], device=logits.device)
            nll = total - logits.gather(1, wanted.clamp(min=0)[:, None])[:, 0]
            parts[s].append(torch.where(wanted >= 0, nll, torch.nan).double().cpu().numpy())
    return Scored(record["group"], target, {s: np.concatenate(part) for s, part in parts.items()})


def _shifted(target: np.ndarray, shift: int) -> np.ndarray:
    """labels[p] = target[p + shift], -1 where that is outside."""
    at = np.arange(len(target)) + shift
    return np.where((at >= 0) & (at < len(target)), target[at.clip(0, len(target) - 1)], -1)


class Bigram:
    """P(id | id `lag` places before it) in the train split; counts are smoothed by SMOOTHING of the unigram.

    Args:
        sequences: payloads, int [T] each. vocab_size: of the token space.
    """

    def __init__(self, sequences: Iterable[np.ndarray], lag: int, vocab_size: int):
        pairs, ids = [np.zeros(0, np.int64)], np.zeros(vocab_size)
        for one in sequences:
            one = np.asarray(one, np.int64)
            ids += np.bincount(one, minlength=vocab_size)
            pairs.append(one[:-lag] * vocab_size + one[lag:])
        self.lag, self.vocab_size = lag, vocab_size
        self.keys, self.counts = np.unique(np.concatenate(pairs), return_counts=True)
        self.before = np.bincount(self.keys // vocab_size, self.counts, minlength=vocab_size)
        self.unigram = (ids + 1) / (ids + 1).sum()

    def losses(self, target: np.ndarray) -> np.ndarray:
        """float64 [T]: nats of each id after the one `lag` places before it; NaN for the first `lag`."""
        before, own = target[: -self.lag], target[self.lag :]
        key = before * self.vocab_size + own
        at = np.searchsorted(self.keys, key).clip(0, max(0, len(self.keys) - 1))
        seen = np.where(self.keys[at] == key, self.counts[at], 0) if len(self.keys) else np.zeros(len(key))
        share = (seen + SMOOTHING * self.unigram[own]) / (self.before[before] + SMOOTHING)
        return np.concatenate([np.full(self.lag, np.nan), -np.log(share)])


def margins(scored: Sequence[Scored], shift: int, bigram: Bigram | None) -> np.ndarray:
    """float64 [n]: for each item, how much less its own tokens cost than those `shift` places further.

    bigram: what the excess of the own loss counts from, for shifts backwards; None: from 0.
    """
    own, other, known = [], [], []
    for one in scored:
        there = ~np.isnan(one.losses[shift])
        own.append(one.losses[0][there].mean())
        other.append(one.losses[shift][there].mean())
        known.append(0.0 if bigram is None else np.nanmean(bigram.losses(one.target)[there]) + SLACK)
    excess = np.asarray(own) - np.asarray(known)
    return np.asarray(other) - (excess if excess.mean() > 0 else 0.0)


def forced(record: Record, target: np.ndarray, end_id: int) -> Grammar:
    """A grammar that allows this target alone, so that decoding it walks the steps of a generation."""
    return Grammar(
        task=record["task"],
        lo=target,
        hi=target + 1,
        end_allowed=np.zeros(len(target), bool),
        end_id=end_id,
        min_len=len(target),
        max_len=len(target),
    )


def _masses(step: Generated) -> np.ndarray:
    assert step.masses is not None  # one id alone is allowed at each place, so it is measured
    return step.masses


def decoding_differences(
    model: Any, space: TokenSpace, records: Sequence[Record], scored: Sequence[Scored]
) -> np.ndarray:
    """float64 [n]: mean |log(p / q)| of each item over the places that decoding measures, p and q the probabilities of
    its target's token in a decoding step and under teacher forcing.
    """
    grammars = [forced(r, one.target, space.special("pad_mm")) for r, one in zip(records, scored, strict=True)]
    prompts = [record_prompt(space, record) for record in records]
    decoded = generate(model, prompts, grammars)
    return np.array(
        [
            np.abs(np.log(np.maximum(_masses(step), TINY)) + one.losses[0][measured(len(one.target))]).mean()
            for step, one in zip(decoded, scored, strict=True)
        ]
    )


def alignment_metrics(
    model: Any,
    space: TokenSpace,
    sets: Mapping[str, Sequence[Record]],
    shards: Path,
    *,
    resamples: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Metric], dict[str, Any]]:
    """L1: metrics, and the mean loss at each shift by task.

    sets: ablation records by task; ITEMS of each are measured. shards: of which the bigram is made.
    """
    metrics: list[Metric] = []
    details: dict[str, Any] = {}
    for done, (task, records) in enumerate(sets.items()):
        chosen, shifts = records[:ITEMS], shifts_of(space, task)
        scored = [score(model, space, record, shifts) for record in chosen]
        groups = [one.group for one in scored]
        bigrams = _bigrams(shards, space, task, shifts)
        for shift in shifts:
            usable = [i for i, one in enumerate(scored) if not np.isnan(one.losses[shift]).all()]
            values = margins([scored[i] for i in usable], shift, bigrams.get(shift))
            found = mean_interval(values, [groups[i] for i in usable], resamples=resamples, seed=seed)
            metrics.append(found.metric("shift_margin_nats", slice=f"{task}.{shift:+d}"))
        apart = decoding_differences(model, space, chosen, scored)
        metrics.append(
            Metric(
                "decoding_over_tolerance",
                float(apart.mean()) / TOLERANCE[model.dtype],
                len(apart),
                "x",
                "lower",
                slice=task,
            )
        )
        details[task] = {
            f"{shift:+d}" if shift else "0": float(np.mean([np.nanmean(one.losses[shift]) for one in scored]))
            for shift in sorted({0, *shifts})
        }
        if progress is not None:
            progress(done + 1, len(sets))
    return metrics, details


def _bigrams(shards: Path, space: TokenSpace, task: str, shifts: Sequence[int]) -> dict[int, Bigram]:
    """Shift backwards -> bigram of that lag, for payloads of codes. Captions repeat no word, so they need none."""
    if task not in EMIT_TASKS:
        return {}
    stored = ShardSet.open(shards, MODALITY_OF[task], "train", space)
    count = min(len(stored), BIGRAM_RECORDS)
    at = [i * len(stored) // count for i in range(count)]
    payloads = [stored.ids(i) for i in at]
    return {s: Bigram(payloads, -s, space.vocab_size_total) for s in shifts if s < 0}
