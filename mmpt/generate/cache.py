"""The key-value cache of one generation: every layer's memory is taken once, at its final length.

Layers hand out views of the filled part, so attention never reads the empty tail and nothing is copied when
the sequence grows. The write position is a Python number: no read-back from the device is needed to know it.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class FixedLayer(CacheLayerMixin):
    """Keys and values `[B, heads, length, head_dim]` of one layer, written left to right."""

    is_compileable = False
    is_sliding = False

    def __init__(self, length: int):
        super().__init__()
        self.length = length
        self.filled = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        shape = (*key_states.shape[:2], self.length)
        self.keys = key_states.new_zeros((*shape, key_states.shape[-1]))
        self.values = value_states.new_zeros((*shape, value_states.shape[-1]))
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Appends `[B, heads, n, head_dim]` and returns the views up to the new end."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.filled, self.filled + key_states.shape[-2]
        if end > self.length:
            raise IndexError(f"cache of {self.length} positions cannot take positions {start}..{end - 1}")
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        self.filled = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.filled + int(query_length), 0

    def get_seq_length(self, *args) -> int:
        return self.filled

    def get_max_cache_shape(self) -> int:
        return self.length

    get_max_length = get_max_cache_shape  # the name since transformers 5.20


class FixedCache(Cache):
    """A cache of `n_layers` layers of `length` positions each, for one batch."""

    def __init__(self, n_layers: int, length: int):
        super().__init__(layers=[FixedLayer(length) for _ in range(n_layers)])
