"""The items of the training benchmark as peers are fed them: a sequence at a time, or our packed rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmpt.shards.loader import Batch, Loader
from mmpt.tokens.formats import IGNORE

HALVES = 2  # micro-batches per step, packed


class Items(Dataset):
    """One sequence an item, read from our shards; a step's items are ours, in an order not sorted by length."""

    def __init__(self, loader: Loader, steps: int):
        self.sources, self.plan = loader.sources, []
        for step in range(steps):
            draws = loader.batch(step).draws
            order = torch.randperm(len(draws), generator=torch.Generator().manual_seed(step))
            self.plan += [draws[i][:2] for i in order.tolist()]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        kind, place = self.plan[index]
        one = self.sources[kind].draw(place)
        return {
            "input_ids": torch.from_numpy(one.input_ids).long(),
            "labels": torch.from_numpy(one.labels).long(),
        }


def pad(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Sequences side by side, filled up on the right to the longest."""

    def side(key: str, value: int) -> Tensor:
        rows = [one[key] for one in items]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    lengths = torch.tensor([len(one["input_ids"]) for one in items])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    return {"input_ids": side("input_ids", 0), "labels": side("labels", IGNORE), "attention_mask": mask.long()}


class Packed(Dataset):
    """Half a step an item: our loader's rows, in the micro-batches that ours takes.

    Raises RuntimeError where a step's rows are not two micro-batches: Trainer takes the same number every step.
    """

    def __init__(self, loader: Loader, steps: int, micro_rows: int):
        self.loader, self.steps, self.rows = loader, steps, micro_rows
        counts = {len(loader.batch(step).input_ids) for step in range(steps)}
        if not micro_rows < min(counts) <= max(counts) <= HALVES * micro_rows:
            raise RuntimeError(f"steps of {sorted(counts)} rows are not two micro-batches of {micro_rows}")
        self._last: tuple[int, Batch] | None = None

    def __len__(self) -> int:
        return HALVES * self.steps

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        step, start = index // HALVES, index % HALVES * self.rows
        if self._last is None or self._last[0] != step:
            self._last = step, self.loader.batch(step)
        keys, part = ("input_ids", "position_ids", "labels"), slice(start, start + self.rows)
        return {key: torch.from_numpy(getattr(self._last[1], key)[part]) for key in keys}
