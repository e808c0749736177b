"""The fixed cache: memory taken once, views of what is filled, and no writing past the end."""

import pytest
import torch

from mmpt.generate.cache import FixedCache


def test_memory_is_taken_once_and_views_grow():
    cache = FixedCache(1, 4)
    first, _ = cache.update(torch.ones(2, 1, 3, 5), torch.ones(2, 1, 3, 5), 0)
    place = cache.layers[0].keys.data_ptr()
    second, values = cache.update(2 * torch.ones(2, 1, 1, 5), 3 * torch.ones(2, 1, 1, 5), 0)
    assert first.shape == (2, 1, 3, 5) and second.shape == (2, 1, 4, 5)
    assert second.data_ptr() == place == cache.layers[0].keys.data_ptr()
    assert second[0, 0, :, 0].tolist() == [1, 1, 1, 2] and values[0, 0, 3, 0] == 3
    assert cache.get_seq_length() == 4


def test_a_full_cache_refuses():
    cache = FixedCache(1, 2)
    with pytest.raises(IndexError, match="2 positions"):
        cache.update(torch.ones(1, 1, 3, 4), torch.ones(1, 1, 3, 4), 0)
