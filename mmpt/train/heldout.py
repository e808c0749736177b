"""Losses on held-out examples, item by item: for choosing the best checkpoint and for the falls of gate B1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mmpt.model.multimodal import MultimodalLM
from mmpt.ops import linear_cross_entropy
from mmpt.shards.example_set import ExampleSet
from mmpt.shards.loader import lay_out
from mmpt.shards.packing import pack, stream_order
from mmpt.tokens.formats import SLOTS
from mmpt.tokens.space import TokenSpace
from mmpt.train.objective import targets_of

TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class ItemLosses:
    """Mean nats per token of each item, float64 [n].

    full: payload and end token, softmax over the whole vocabulary.
    inside: payload only, softmax over its segment.
    """

    full: np.ndarray
    inside: np.ndarray


def sample(examples: ExampleSet, count: int) -> list[int]:
    """Up to `count` indices, evenly spread over the set: the same ones whenever it is asked."""
    n = len(examples)
    return [i * n // min(count, n) for i in range(min(count, n))]


def payload_slots(space: TokenSpace) -> dict[int, tuple[int, int]]:
    """Slot number -> (lo, hi) of its segment, for the slots that hold payload."""
    bounds = {}
    for index, name in enumerate(SLOTS(space)):
        if (segment := space.ranges.get(name.upper())) is not None:
            bounds[index] = (segment.start, segment.stop)
    return bounds


@torch.no_grad()
def item_losses(model: MultimodalLM, examples: ExampleSet, indices: Sequence[int], row_len: int) -> ItemLosses:
    """Losses of some examples under the model as it is now; packed rows, several at a time."""
    space = model.space
    sequences = [examples[i] for i in indices]
    rows = pack([len(one) for one in sequences], row_len)
    sums = np.zeros((2, len(sequences)))
    counts = np.zeros((2, len(sequences)), np.int64)
    at_once = max(1, TOKENS_AT_ONCE // row_len)
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once]
        laid = lay_out(part, sequences, [0] * len(sequences), row_len, space.special("pad_mm"))
        arrays, lengths = (*laid, _items(part, sequences, row_len)), None
        if model.packs:
            places, lengths = stream_order(arrays[2], arrays[-1] >= 0)
            arrays = tuple(array.ravel()[places][None] for array in arrays)
        inputs, labels, positions, task, slot, item = arrays
        targets = targets_of(labels, task, slot, model.device)
        ids, where = (torch.from_numpy(array).to(model.device) for array in (inputs, positions))
        hidden = model.hidden(ids, where, lengths=lengths)
        owner = item[labels != -100]
        for which, (nll, kept) in enumerate(_both(model, hidden.flatten(0, 1)[targets.at], targets)):
            np.add.at(sums[which], owner[kept], nll[kept])
            np.add.at(counts[which], owner[kept], 1)
    means = sums / counts
    return ItemLosses(means[0], means[1])


def _items(rows: Sequence[Sequence[int]], sequences: Sequence, row_len: int) -> np.ndarray:
    """int64 [rows, row_len]: which sequence each token belongs to, -1 on padding."""
    item = np.full((len(rows), row_len), -1, np.int64)
    for row, members in enumerate(rows):
        owners = np.repeat(np.asarray(members), [len(sequences[i]) for i in members])
        item[row, : len(owners)] = owners
    return item


def _both(model: MultimodalLM, hidden: torch.Tensor, targets) -> list[tuple[np.ndarray, np.ndarray]]:
    """(nll float64 [S], which tokens count bool [S]): whole vocabulary, then inside the segment."""
    head, space = model.head(), model.space
    full = linear_cross_entropy(hidden, targets.labels, *head, reduction="none").double().cpu().numpy()
    bounds = payload_slots(space)
    slot = targets.slot.cpu().numpy()
    payload = np.isin(slot, list(bounds))
    lo = torch.tensor([bounds.get(int(s), (0, 1))[0] for s in slot], device=hidden.device)
    hi = torch.tensor([bounds.get(int(s), (0, 1))[1] for s in slot], device=hidden.device)
    labels = torch.where(torch.from_numpy(payload).to(hidden.device), targets.labels, -100)
    inside = linear_cross_entropy(hidden, labels, *head, column_range=(lo, hi), reduction="none").double().cpu().numpy()
    return [(full, np.ones(len(full), bool)), (inside, payload)]
