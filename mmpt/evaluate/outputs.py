"""Golden outputs compared with a teacher-forced forward of the independent scorer (`mmpt.model.plain`).

It asks without an oracle, on any corpus, whether what was generated is right and not only valid:

    greedy      each id is the one that the model prefers there; another one means that decoding and forward disagree
                (cache, positions, adapter, prompt)
    own prompt  the output is likelier after its own prompt than after another item's
    read back   the model, reading the output, prefers the caption that was the prompt to that of another output; the
                same for the ground truth is given next to it

Conditions are looked up in the shards by record id and tokenised again; the golden file's own prompts are not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from tokenizers import Tokenizer

from mmpt.evaluate.sets import Record
from mmpt.evaluate.statistics import Interval, mean_interval, win_rate
from mmpt.model.plain import PlainLM, Scored, TaskSequence, sequence
from mmpt.shards.golden import contradicts
from mmpt.shards.shard_set import ShardSet
from mmpt.store.evidence import Metric
from mmpt.store.tasks import EMIT_TASKS, MODALITY_OF
from mmpt.tokens import TokenSpace

READS = {"t2a": "a2t", "t2i": "i2t"}  # the task that reads what an emit task makes
ROUNDING = 2.0  # units of the base's dtype, of the largest logit; the smoke model in bf16: 0.07 at most
LEAST_TOLERANCE = 1e-3  # of a logit; two fp32 forwards of the smoke model differ by 1.3e-5 at logits of 12.5
FORBIDDEN = 1e9

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """What the items of a task were asked for: conditions and captions as text ids, payloads, and each one's partner.

    partner: the place of an item of another group whose caption is wrong for this one's medium; -1 where there is none.
    """

    task: str
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    captions: tuple[np.ndarray, ...]
    payloads: tuple[np.ndarray, ...]
    partner: tuple[int, ...]

    @property
    def conditions(self) -> tuple[np.ndarray, ...]:
        return self.captions if self.task in EMIT_TASKS else self.payloads

    @staticmethod
    def of(records: Sequence[Record], shards: Path, tokenizer: Tokenizer, space: TokenSpace) -> Asked:
        """Of golden records, by what the shards of the test split hold under their ids."""
        task = records[0]["task"]
        held = ShardSet.open(shards, MODALITY_OF[task], "test", space)
        wanted = {record["id"] for record in records}
        places = {one["id"]: place for place, one in enumerate(held.records) if one["id"] in wanted}
        captions = []
        for record in records:
            ids = tokenizer.encode(held.record(places[record["id"]])["caption"], add_special_tokens=False).ids
            # A prompt that was too long was shortened at its end.
            ids = ids[: len(record["prompt_ids"])] if task in EMIT_TASKS else ids
            captions.append(np.asarray(ids, np.int64))
        payloads = [np.asarray(held.ids(places[record["id"]]), np.int64) for record in records]
        return Asked(
            task,
            tuple(record["id"] for record in records),
            tuple(record["group"] for record in records),
            tuple(captions),
            tuple(payloads),
            tuple(partners(records)),
        )


def partners(records: Sequence[Record]) -> list[int]:
    """For each record the place of one whose caption is wrong for its medium; -1 where there is none.

    Of another group, medium and caption; where attributes are known, a caption that contradicts the medium's. Prompts
    of like length are preferred. Each place serves once, and again only for what would be left without.
    """
    lengths = np.array([len(record["prompt_ids"]) for record in records], np.float64)
    cost = np.abs(lengths[:, None] - lengths[None, :])
    for row, item in enumerate(records):
        for column, donor in enumerate(records):
            if not _is_wrong(item, donor):
                cost[row, column] = FORBIDDEN
    rows, columns = linear_sum_assignment(cost)
    found = [-1] * len(records)
    for row, column in zip(rows, columns, strict=True):
        best = column if cost[row, column] < FORBIDDEN else int(cost[row].argmin())
        found[row] = int(best) if cost[row, best] < FORBIDDEN else -1
    return found


def _is_wrong(item: Record, donor: Record) -> bool:
    """Is the donor's caption false of the item's medium, and the item's of the donor's, as far as that is known?"""
    if item["group"] == donor["group"] or item["media_sha256"] == donor["media_sha256"]:
        return False
    if item["caption"].casefold() == donor["caption"].casefold():
        return False
    if not all(one["attributes"] and one["mentioned"] for one in (item, donor)):
        return True
    return contradicts(item, donor, True) and contradicts(item, donor, False)


def scored_rows(
    model: PlainLM, space: TokenSpace, asked: Asked, rows: Sequence[Row], dtype: torch.dtype, guidance: float = 1.0
) -> list[dict[str, Any]]:
    """One row for each greedy output (schema scored_output): losses are means over the payload, nats per token."""
    outputs = [np.asarray(row["ids"], np.int64) for row in rows]
    task, other = asked.task, asked.partner
    # Where a picture or a sound of a given length ends is not the model's choice.
    ends = [bool(row["ended"]) and task not in EMIT_TASKS for row in rows]
    items = range(len(rows))
    own = [sequence(space, task, asked.conditions[i], outputs[i], ended=ends[i]) for i in items]
    paired = [i for i in items if other[i] >= 0]
    swapped = [sequence(space, task, asked.conditions[other[i]], outputs[i], ended=False) for i in paired]
    empty = [sequence(space, task, [], outputs[i], ended=False) for i in items] if guidance != 1.0 else None
    right, wrong = model.score(own), dict(zip(paired, model.score(swapped), strict=True))
    chosen = right if empty is None else model.score(own, guide=empty, guidance=guidance)
    back = _read_back(model, space, asked, outputs, paired) if task in EMIT_TASKS else {}
    return [
        {
            "id": asked.ids[i],
            "task": task,
            "group": asked.groups[i],
            "swap_id": asked.ids[other[i]] if other[i] >= 0 else None,
            "positions": len(chosen[i].margin),
            "not_greedy": _not_greedy(chosen[i], dtype),
            "loss_own": _mean(right[i], outputs[i]),
            "loss_swapped": _mean(wrong[i], outputs[i]) if i in wrong else None,
            **{name: values.get(i) for name, values in back.items()},
        }
        for i in items
    ]


def _read_back(
    model: PlainLM, space: TokenSpace, asked: Asked, outputs: Sequence[np.ndarray], paired: Sequence[int]
) -> dict[str, dict[int, float]]:
    """Loss of each prompt as the caption of its own output, and of its partner's; likewise of the ground truth."""
    reads, found = READS[asked.task], {}
    for name, media in (("back", outputs), ("truth", asked.payloads)):
        for which in ("own", "swapped"):
            of = [i if which == "own" else asked.partner[i] for i in paired]
            pairs: list[TaskSequence] = [
                sequence(space, reads, media[j], asked.captions[i], ended=False)
                for i, j in zip(paired, of, strict=True)
            ]
            scores = model.score(pairs)
            found[f"{name}_{which}"] = {i: _mean(one, asked.captions[i]) for i, one in zip(paired, scores, strict=True)}
    return found


def _not_greedy(one: Scored, dtype: torch.dtype) -> int:
    """Positions whose id is worse than the best allowed one by more than rounding explains."""
    return int((~(one.margin <= tolerance(one.scale, dtype))).sum())  # NaN is no choice


def tolerance(scale: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """By how much two equal logits may differ between two forwards in `dtype`; scale: the largest logit."""
    return np.maximum(LEAST_TOLERANCE, ROUNDING * torch.finfo(dtype).eps * scale)


def _mean(one: Scored, payload: np.ndarray) -> float:
    return round(float(one.nll[: len(payload)].mean()), 6)


def argmax_metrics(scored: Mapping[str, Sequence[Row]]) -> list[Metric]:
    """C1: share of positions of greedy outputs that a teacher-forced forward would fill otherwise; n: outputs."""
    return [
        Metric(
            "not_greedy_rate",
            sum(row["not_greedy"] for row in rows) / max(1, sum(row["positions"] for row in rows)),
            len(rows),
            "share",
            "lower",
            slice=task,
        )
        for task, rows in scored.items()
    ]


def own_prompt_metrics(rows: Sequence[Row], resamples: int, seed: int) -> list[Metric]:
    """B3 (t2a, t2i) and R1 (a2t, i2t) on generated ids: gap and win rate of the own condition against a swapped one."""
    return _paired("output", rows, "loss_own", "loss_swapped", resamples, seed)


def read_back_metrics(rows: Sequence[Row], resamples: int, seed: int) -> list[Metric]:
    """B3: gap and win rate of a prompt read from its own output against another's; and from the ground truth.

    Slices are <emit task>.<read task>.
    """
    at = f"{rows[0]['task']}.{READS[rows[0]['task']]}"
    return [
        *_paired("read_back", rows, "back_own", "back_swapped", resamples, seed, at),
        *_paired("truth_read", rows, "truth_own", "truth_swapped", resamples, seed, at),
    ]


def _paired(
    name: str, rows: Sequence[Row], right: str, wrong: str, resamples: int, seed: int, at: str = ""
) -> list[Metric]:
    pairs = [row for row in rows if row[wrong] is not None]
    at = at or rows[0]["task"]
    if not pairs:
        return [
            Metric(f"{name}_gap_nats", None, 0, "nats/token", "higher", slice=at),
            Metric(f"{name}_win_rate", None, 0, "share", "higher", slice=at),
        ]
    better, worse = (np.array([row[key] for row in pairs]) for key in (right, wrong))
    gap: Interval = mean_interval(worse - better, [row["group"] for row in pairs], resamples=resamples, seed=seed)
    return [
        gap.metric(f"{name}_gap_nats", slice=at),
        Metric(f"{name}_win_rate", win_rate(better, worse), len(pairs), "share", "higher", slice=at),
    ]
