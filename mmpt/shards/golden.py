"""Golden and ablation sets: which test items are generated, and which items swap conditions.

Both are fixed by the seed. A golden set takes distinct media in turn from the strata (caption length x
source x kind of sound), so a prefix of it is spread as well as the whole. An ablation set is a permutation of
conditions without fixed points: the swapped conditions are the same ones, only wrong, which no preference for likely
conditions can fake.

Test records are gone over, not held: of each stay two keys, its place in the order and a few numbers.
"""

from __future__ import annotations

import sys
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from mmpt.corpus.keys import Keys
from mmpt.shards.counter_rng import bits, stream, uniform
from mmpt.shards.example_set import ExampleSet
from mmpt.shards.sound_kinds import sound_kind
from mmpt.store.tasks import EMIT_TASKS, MODALITY_OF

BUCKETS = ("short", "medium", "long")
_FORBIDDEN, _SAME_GROUP, _SAME_CATEGORY = (
    1e9,
    1e5,
    1e4,
)  # far above any difference of lengths, so each is taken only when nothing else is left
_META = (
    "frames",
    "n_codebooks",
    "sample_rate",
    "channels",
    "samples",
    "scales",
    "codec_meta",
    "encode_size",
    "decode_size",
)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Swap:
    """Item ``index`` gets the condition of item ``donor``; ``kind`` says how that is known to be wrong."""

    index: int
    donor: int
    kind: str


def length_buckets(lengths: Sequence[int] | np.ndarray) -> list[str]:
    """short, medium or long by the terciles of what is there; equal lengths share a bucket.

    Where one length makes up the middle third, the second cut moves into what is longer.
    """
    if not len(lengths):
        return []
    ordered = np.sort(lengths)
    low, high = ordered[(len(ordered) - 1) // 3], ordered[2 * (len(ordered) - 1) // 3]
    longer = ordered[ordered > low]
    if high == low and len(longer):
        high = longer[(len(longer) - 1) // 2]
    return [BUCKETS[int(length > low) + int(length > high)] for length in lengths]


def in_turn(strata: Sequence[Any], n: int) -> list[int]:
    """Up to ``n`` indices, one from each stratum in turn, strata in sorted order, each from its front."""
    queues: dict[Any, list[int]] = defaultdict(list)
    for index, stratum in enumerate(strata):
        queues[stratum].append(index)
    chosen: list[int] = []
    for turn in range(max(map(len, queues.values()), default=0)):
        chosen += [queues[stratum][turn] for stratum in sorted(queues) if turn < len(queues[stratum])]
    return chosen[:n]


def distinct_media(records: Iterable[Record]) -> int:
    """How many media the records are of."""
    media = Keys()
    for record in records:
        media.add(record["media_sha256"])
    return media.groups()[1]


def shuffled(records: Iterable[Record], seed: int, purpose: str, *, distinct_media: bool) -> list[int]:
    """Indices in an order fixed by the seed and the record ids; media and captions already taken come last.

    Args:
        distinct_media: leave out all but the first record of a medium.
    """
    streams, media, captions = array("Q"), Keys(), Keys()
    for record in records:
        streams.append(int(stream(seed, purpose, record["id"])))
        media.add(record["media_sha256"])
        captions.add(record["caption"].casefold())
    order = np.argsort(bits(np.frombuffer(streams, np.uint64), 0), kind="stable")
    medium, caption = media.groups()[0][order], captions.groups()[0][order]
    before = _times_before(medium)
    if distinct_media:
        first = before == 0
        order, before, caption = order[first], before[first], caption[first]
    return order[np.lexsort((_times_before(caption), before))].tolist()  # stable: ties keep the shuffled order


def _times_before(groups: np.ndarray) -> np.ndarray:
    """int64 [n]: how often each place's group stands at a place before it."""
    order = np.argsort(groups, kind="stable")
    ordered, places = groups[order], np.arange(len(groups))
    starts = np.maximum.accumulate(np.where(np.diff(ordered, prepend=-1) != 0, places, 0))
    times = np.empty(len(groups), np.int64)
    times[order] = places - starts
    return times


def golden_items(examples: ExampleSet, n: int, seed: int) -> list[tuple[int, str]]:
    """(index, length bucket) of the golden items of a task, in order."""
    buckets = length_buckets(examples.text_lengths)
    sources = [sys.intern(origin_stratum(record, examples.task)) for record in examples.records]
    order = shuffled(examples.records, seed, f"golden {examples.task}", distinct_media=True)
    strata = {one: one for one in set(zip(map(BUCKETS.index, buckets), sources, strict=True))}  # one object each
    picked = in_turn([strata[BUCKETS.index(buckets[index]), sources[index]] for index in order], n)
    return [(order[place], buckets[order[place]]) for place in picked]


def origin_stratum(record: Record, task: str) -> str:
    """The source, and of sounds whose attributes nobody states whether they are speech-like or music-like."""
    if MODALITY_OF[task] == "image" or record["attributes"]:
        return record["source"]
    return f"{record['source']} {sound_kind(record['caption'])}"


def swaps(examples: ExampleSet, n: int, seed: int) -> list[Swap]:
    """The ablation items of a task: up to ``n`` test items, each with another one's condition of like length.

    Every condition serves at most once. A condition is wrong for an item when it is of another medium and
    caption and, where attributes are known, when what it says contradicts them; another group and category
    are preferred. An item for which nothing wrong is left is not in the set.
    """
    chosen = shuffled(examples.records, seed, f"ablation {examples.task}", distinct_media=False)[:n]
    if len(chosen) < 2:
        return []
    picked = [examples.record(index) for index in chosen]
    emits = examples.task in EMIT_TASKS
    lengths = np.array([len(examples.text_ids(i) if emits else examples.payload_ids(i)) for i in chosen], np.float64)
    cost = np.abs(lengths[:, None] - lengths[None, :])
    noise = uniform(stream(seed, f"swap {examples.task}"), np.arange(len(chosen) ** 2))
    cost += noise.reshape(cost.shape) / 2  # chooses among the equally long
    for row, item in enumerate(picked):
        for column, donor in enumerate(picked):
            cost[row, column] += _penalty(item, donor, emits)
    rows, columns = linear_sum_assignment(cost)
    return [
        Swap(chosen[row], chosen[column], kind_of(picked[row], picked[column]))
        for row, column in zip(rows, columns, strict=True)
        if cost[row, column] < _FORBIDDEN
    ]


def _penalty(item: Record, donor: Record, emits: bool) -> float:
    same = item["media_sha256"] == donor["media_sha256"] or item["caption"].casefold() == donor["caption"].casefold()
    if same or (_described(item, donor) and not contradicts(item, donor, emits)):
        return _FORBIDDEN
    if item["group"] == donor["group"]:
        return _SAME_GROUP
    return _SAME_CATEGORY if item["category"] and item["category"] == donor["category"] else 0.0


def contradicts(item: Record, donor: Record, emits: bool) -> bool:
    """Is the swapped pair of caption and medium false in an attribute that the caption mentions?"""
    speaker, shown = (donor, item) if emits else (item, donor)
    return any(speaker["attributes"][name] != shown["attributes"].get(name) for name in speaker["mentioned"])


def kind_of(item: Record, donor: Record) -> str:
    """How the donor's condition is known to be wrong for the item: see schema ablation_record."""
    if _described(item, donor):
        return "attributes"
    if item["category"] and donor["category"] and item["category"] != donor["category"]:
        return "category"
    return "group" if item["group"] != donor["group"] else "caption"


def _described(item: Record, donor: Record) -> bool:
    return all(record["attributes"] and record["mentioned"] for record in (item, donor))


def condition_ids(examples: ExampleSet, index: int) -> list[int]:
    """Ids of the condition, without special tokens."""
    return (examples.text_ids(index) if examples.task in EMIT_TASKS else examples.payload_ids(index)).tolist()


def target_ids(examples: ExampleSet, index: int) -> list[int]:
    """Ids of the target, without special tokens and end."""
    return (examples.payload_ids(index) if examples.task in EMIT_TASKS else examples.text_ids(index)).tolist()


def golden_row(examples: ExampleSet, index: int, bucket: str) -> Record:
    """A line of a golden set (schema golden_record)."""
    record = examples.record(index)
    kept = {
        key: record[key]
        for key in (
            "id",
            "caption",
            "media",
            "media_sha256",
            "attributes",
            "mentioned",
            "group",
            "source",
            "token_space",
        )
    }
    return {
        **kept,
        "task": examples.task,
        "index": index,
        "prompt_ids": condition_ids(examples, index),
        "target_ids": target_ids(examples, index),
        "n_frames": record["frames"],
        "length_bucket": bucket,
        "meta": {key: record[key] for key in _META},
    }


def ablation_row(examples: ExampleSet, swap: Swap) -> Record:
    """A line of ablation_{task}.jsonl (schema ablation_record)."""
    item, donor = examples.record(swap.index), examples.record(swap.donor)
    kept = {key: item[key] for key in ("id", "caption", "media_sha256", "group", "source", "token_space")}
    return {
        **kept,
        "task": examples.task,
        "index": swap.index,
        "swap_id": donor["id"],
        "swap_index": swap.donor,
        "swap_group": donor["group"],
        "swap_caption": donor["caption"],
        "prompt_ids": condition_ids(examples, swap.index),
        "swap_prompt_ids": condition_ids(examples, swap.donor),
        "target_ids": target_ids(examples, swap.index),
        "n_frames": item["frames"],
        "swap_kind": swap.kind,
    }
