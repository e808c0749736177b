"""The cache of slots: memory taken once, prompts into whole rows, one state a row at the row's own column."""

import pytest
import torch

from mmpt.generate.cache import SlotCache


def states(rows, length, value):
    return torch.full((rows, 1, length, 5), float(value))


def test_memory_is_taken_once_and_each_row_is_written_at_its_own_column():
    cache = SlotCache(1, 2, 4)
    cache.take_step(torch.tensor([0, 2]), 3)
    first, _ = cache.update(states(2, 1, 1), states(2, 1, 2), 0)
    place = cache.layers[0].keys.data_ptr()
    cache.take_step(torch.tensor([1, 3]), 4)
    keys, values = cache.update(states(2, 1, 3), states(2, 1, 4), 0)
    assert first.shape == (2, 1, 3, 5) and keys.shape == (2, 1, 4, 5)
    assert keys.data_ptr() == place == cache.layers[0].keys.data_ptr()
    assert keys[:, 0, :, 0].tolist() == [[1, 3, 0, 0], [0, 0, 1, 3]]
    assert values[:, 0, :, 0].tolist() == [[2, 4, 0, 0], [0, 0, 2, 4]]


def test_prompts_see_themselves_alone_and_leave_nothing_of_the_rows_last_owner():
    cache = SlotCache(1, 3, 4)
    cache.take_prompts(torch.tensor([0, 1, 2]))
    cache.update(states(3, 4, 9), states(3, 4, 9), 0)
    cache.layers[0].keys[2] = torch.nan
    cache.take_prompts(torch.tensor([2, 0]))
    new = torch.stack([torch.ones(1, 2, 5), 2 * torch.ones(1, 2, 5)])
    keys, values = cache.update(new, new, 0)
    assert keys is new and values is new
    assert cache.layers[0].keys[:, 0, :, 0].tolist() == [[2, 2, 0, 0], [9, 9, 9, 9], [1, 1, 0, 0]]
    assert cache.layers[0].values[:, 0, :, 0].tolist() == [[2, 2, 0, 0], [9, 9, 9, 9], [1, 1, 0, 0]]


def test_a_column_past_the_end_is_refused():
    cache = SlotCache(1, 1, 2)
    cache.take_step(torch.tensor([2]), 2)
    with pytest.raises(IndexError):
        cache.update(states(1, 1, 1), states(1, 1, 1), 0)
