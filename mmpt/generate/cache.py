"""The key-value cache of one generation: rows of fixed memory, each written at a column of its own.

A row is one sequence. Its columns are its positions: a prompt lies in columns 0.., every decoded id adds
one, so a query at position p may see exactly columns 0..p of its row. Memory is taken once; addresses never
change, so that a captured graph may use them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass
class _Place:
    """Where the next states go: prompts into whole `rows`, or one state a row at column `positions`."""

    rows: Tensor | None = None
    positions: Tensor | None = None
    width: int = 0


class SlotLayer(CacheLayerMixin):
    """Keys and values `[rows, heads, length, head_dim]` of one layer."""

    is_compileable = False
    is_sliding = False

    def __init__(self, rows: int, length: int, place: _Place):
        super().__init__()
        self.rows, self.length, self.place = rows, length, place

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (
            states.new_zeros((self.rows, states.shape[1], self.length, states.shape[-1]))
            for states in (key_states, value_states)
        )
        self.every_row = torch.arange(self.rows, device=key_states.device)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Writes `[n, heads, q, head_dim]`; returns what their queries attend to.

        Prompts see themselves alone, so they get back what they gave. A decoded id gets the first `width`
        columns.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place, keys, values = self.place, self.keys, self.values
        assert keys is not None and values is not None
        states = (keys, key_states), (values, value_states)
        if place.rows is not None:
            length = key_states.shape[-2]
            for memory, new in states:
                # Nothing of the row's last owner stays: a mask alone lets its NaN through, 0 * NaN = NaN.
                memory[place.rows, :, length:] = 0
                memory[place.rows, :, :length] = new
            return key_states, value_states
        for memory, new in states:
            memory[self.every_row, :, place.positions] = new[:, :, 0]
        return keys[:, :, : place.width], values[:, :, : place.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return int(query_length), 0  # asked for by prompts only: a decoding step brings its own mask

    def get_seq_length(self, *args) -> int:
        return 0

    def get_max_cache_shape(self) -> int:
        return self.length

    get_max_length = get_max_cache_shape  # the name since transformers 5.20


class SlotCache(Cache):
    """A cache of `n_layers` layers for `rows` sequences of up to `length` positions."""

    def __init__(self, n_layers: int, rows: int, length: int):
        self.place = _Place()
        super().__init__(layers=[SlotLayer(rows, length, self.place) for _ in range(n_layers)])

    def take_prompts(self, rows: Tensor) -> SlotCache:
        """The next forward holds prompts, int64 `rows` [n] become theirs."""
        self.place.rows = rows
        return self

    def take_step(self, positions: Tensor, width: int) -> SlotCache:
        """The next forward holds one id a row, at column `positions` [rows]; they see `width` columns."""
        self.place.rows, self.place.positions, self.place.width = None, positions, width
        return self
