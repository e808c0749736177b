"""The device side of decoding: static buffers of S slots, and the step that adds one id to every slot.

A slot holds one output being decoded; with guidance it has a second row, s + S, for the empty prompt.
Everything the step needs lies in tensors whose addresses and shapes never change, so on CUDA the step is
captured once and replayed; elsewhere the same function runs as it is. It reads nothing back: the host knows
how far each slot may have come, and reads `step` when it needs to know which slots have ended.

    admit    prompt states (all but the last id) into the cache, the item's rules into the slot
    step     last id -> hidden state -> id allowed at the slot's own position -> last id
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmpt.generate.cache import SlotCache
from mmpt.generate.mass import measured
from mmpt.ops import Screen, sample_range
from mmpt.tokens.grammar import Grammar

PREFILL_TOKENS = 16_384  # ids, padding counted, of one forward over prompts: bounds its activations


@dataclass(frozen=True)
class Item:
    """One output to decode. `prompts`: int ids [P], to the start token, and with guidance the empty one."""

    prompts: tuple[np.ndarray, ...]
    grammar: Grammar
    temperature: float
    top_k: int
    top_p: float
    seed: int
    measure: bool

    @property
    def length(self) -> int:
        """Columns of a cache row that it needs."""
        return max(map(len, self.prompts)) + self.grammar.max_len

    @property
    def widest(self) -> int:
        """The most ids that are allowed at any position, the end token not counted."""
        return int((self.grammar.hi - self.grammar.lo)[: self.grammar.max_len].max())


@dataclass(frozen=True)
class BufferSizes:
    """Sizes of the buffers: `slots`, rows per slot, columns per row, `steps` of the longest output, `widest` range,
    hidden states `kept` per output (0: none).
    """

    slots: int
    rows_each: int
    columns: int
    steps: int
    widest: int
    kept: int


class Slots:
    """Buffers of a generation by `model` (see `generate`), and what is done on them.

    step [S] is the payload position to be decoded next; where it equals length [S] the slot is idle: it
    draws id 0 from its one-id range into a column nobody reads, and stays where it is. guidance: see
    `generate`. screen: of the model's head, for all draws.
    """

    def __init__(self, model, shape: BufferSizes, guidance: float, screen: Screen | None = None):
        self.model, self.shape, self.guidance, self.screen = model, shape, guidance, screen
        self.device = device = model.head()[0].device
        slots, rows, steps = shape.slots, shape.slots * shape.rows_each, shape.steps
        self.cache = SlotCache(model.config.num_hidden_layers, rows, shape.columns)

        def whole(*size: int, fill: int = 0, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.full(size, fill, dtype=dtype, device=device)

        self.ids, self.positions = whole(rows), whole(rows)
        self.step_at, self.length, self.end, self.seed, self.top_k = (whole(slots) for _ in range(5))
        self.temperature = whole(slots, dtype=torch.float64)
        self.top_p = whole(slots, fill=1, dtype=torch.float64)
        # lo, hi, extra id, where the hidden state is kept; the column after an output's last is the idle one.
        self.rules = torch.tensor([0, 1, -1, shape.kept], device=device).repeat(slots, steps + 1, 1)
        self.out = whole(slots, steps + 1)
        self.kept: Tensor | None = None  # [S, kept + 1, H], taken when H and its dtype are known
        self.every_slot = torch.arange(slots, device=device)
        self.columns = torch.arange(shape.columns, device=device)

    def admit(self, items: Mapping[int, Item]) -> None:
        """Gives each slot (key) its item: rules, parameters, and prompt states in its rows of the cache."""
        index = self._put(list(items))
        rules = np.tile(np.array([0, 1, -1, self.shape.kept]), (len(items), self.shape.steps + 1, 1))
        for row, item in zip(rules, items.values(), strict=True):
            row[: item.grammar.max_len] = _rules(item, self.shape.kept)
        self.rules[index] = self._put(rules)
        of = items.values()
        for buffer, values in (
            (self.step_at, [0] * len(items)),
            (self.length, [item.grammar.max_len for item in of]),
            (self.end, [item.grammar.end_id for item in of]),
            (self.seed, [item.seed % 2**63 for item in of]),
            (self.top_k, [item.top_k for item in of]),
            (self.temperature, [item.temperature for item in of]),
            (self.top_p, [item.top_p for item in of]),
        ):
            buffer[index] = self._put(values, buffer.dtype)
        for k in range(self.shape.rows_each):
            self._prefill([(slot + k * self.shape.slots, item.prompts[k]) for slot, item in items.items()])

    def _prefill(self, prompts: Sequence[tuple[int, np.ndarray]]) -> None:
        """States of all ids but the last, padded on the right, where no earlier id sees them."""
        for group in _alike(prompts):
            width = max(1, max(len(prompt) for _, prompt in group) - 1)
            ids = np.zeros((len(group), width), np.int64)
            for row, (_, prompt) in zip(ids, group, strict=True):
                row[: len(prompt) - 1] = prompt[:-1]
            rows = self._put([row for row, _ in group])
            positions = torch.arange(width, device=self.device).expand(len(group), width)
            self.model.hidden(self._put(ids), positions, past_key_values=self.cache.take_prompts(rows))
            self.ids[rows] = self._put([int(prompt[-1]) for _, prompt in group])
            self.positions[rows] = self._put([len(prompt) - 1 for _, prompt in group])

    def step(self, width: int) -> None:
        """Decodes one id a slot. `width`: columns attention sees, at least each live row's position + 1."""
        n, rows_each = self.shape.slots, self.shape.rows_each
        seen = self.columns[:width] <= self.positions[:, None]
        bias = torch.zeros(seen.shape, dtype=self.model.dtype, device=self.device)
        hidden = self.model.hidden(
            self.ids[:, None],
            self.positions[:, None],
            attention_mask=bias.masked_fill_(~seen, -torch.inf)[:, None, None, :],
            past_key_values=self.cache.take_step(self.positions, width),
        )[:, -1]
        lo, hi, extra, keep = self.rules[self.every_slot, self.step_at].unbind(1)
        if self.shape.kept:
            if self.kept is None:
                self.kept = hidden.new_zeros((n, self.shape.kept + 1, hidden.shape[1]))
            self.kept[self.every_slot, keep] = hidden[:n]
        if rows_each == 2:
            # The head is linear: mixing the two hidden states is mixing the two rows of logits.
            hidden = hidden[n:] + self.guidance * (hidden[:n] - hidden[n:])
        drawn = sample_range(
            hidden,
            *self.model.head(),
            lo,
            hi,
            extra_id=extra,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
            offset=self.step_at,
            max_range=self.shape.widest,
            screen=self.screen,
        )
        self.out[self.every_slot, self.step_at] = drawn
        live = self.step_at < self.length
        goes_on = live & (drawn != self.end) & (drawn >= 0)  # below 0: a NaN logit on CUDA
        self.step_at.copy_(torch.where(goes_on, self.step_at + 1, self.length))
        self.positions.add_(live.repeat(rows_each))
        self.ids.copy_(drawn.clamp(min=0).repeat(rows_each))

    def ended(self) -> list[bool]:
        """Which slots have nothing left to decode. Waits for the device."""
        return (self.step_at >= self.length).tolist()

    def take(self, slots: Sequence[int]) -> np.ndarray:
        """What was drawn in `slots`, int64 [n, steps + 1], up to an end token or the length. Waits."""
        return self.out[self._put(slots)].cpu().numpy()

    def _put(self, values, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.as_tensor(values, dtype=dtype).to(self.device)


def _rules(item: Item, kept: int) -> np.ndarray:
    """int64 [max_len, 4]: lo, hi, extra id (-1: none), place of the hidden state (`kept`: not measured)."""
    grammar, n = item.grammar, item.grammar.max_len
    places = np.full(n, kept)
    if item.measure:
        at = measured(n)
        places[at] = np.arange(len(at))
    extra = np.where(grammar.end_allowed[:n], grammar.end_id, -1)
    return np.stack([grammar.lo[:n], grammar.hi[:n], extra, places], 1)


def _alike(prompts: Sequence[tuple[int, np.ndarray]]) -> list[list[tuple[int, np.ndarray]]]:
    """Groups for one forward each: at most PREFILL_TOKENS, none under four fifths as long as its group's longest."""
    groups: list[list[tuple[int, np.ndarray]]] = []
    for row, prompt in sorted(prompts, key=lambda one: -len(one[1])):
        longest = len(groups[-1][0][1]) if groups else 0
        fits = groups and (len(groups[-1]) + 1) * longest <= PREFILL_TOKENS and 5 * len(prompt) >= 4 * longest
        if fits:
            groups[-1].append((row, prompt))
        else:
            groups.append([(row, prompt)])
    return groups
