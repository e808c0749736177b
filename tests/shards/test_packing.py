"""Packing loses nothing, overfills nothing, and wastes little."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpt.shards.packing import pack, stream_order
from mmpt.store.errors import UserError

lengths = st.lists(st.integers(1, 64), max_size=60)


@given(lengths, st.integers(64, 200))
def test_every_sequence_lies_in_exactly_one_row_and_no_row_is_overfull(sizes, row_len):
    rows = pack(sizes, row_len)
    assert sorted(index for row in rows for index in row) == list(range(len(sizes)))
    assert all(row for row in rows)
    assert all(sum(sizes[index] for index in row) <= row_len for row in rows)


@given(lengths, st.integers(64, 200))
def test_no_two_rows_could_share_one(sizes, row_len):
    filled = sorted(sum(sizes[index] for index in row) for row in pack(sizes, row_len))
    assert len(filled) < 2 or filled[0] + filled[1] > row_len


@given(lengths, st.integers(64, 200), st.randoms())
def test_the_rows_depend_on_the_lengths_not_on_their_order(sizes, row_len, random):
    shuffled = random.sample(sizes, len(sizes))
    contents = [
        sorted(sorted(some[index] for index in row) for row in pack(some, row_len)) for some in (sizes, shuffled)
    ]
    assert contents[0] == contents[1]


def test_the_tightest_row_that_fits_is_taken():
    # 60 leaves 40; 55 and 41 leave 4, where the 3 belongs. First fit would put it beside the 60.
    assert pack([55, 60, 41, 3], 100) == [[1], [0, 2, 3]]


def test_a_sequence_longer_than_a_row_is_refused_with_the_length_that_works():
    with pytest.raises(UserError, match="set train.row_len to 101"):
        pack([7, 101], 100)


def test_no_sequences_need_no_rows():
    assert pack([], 10) == []


@given(lengths.filter(len), st.integers(64, 200))
def test_a_stream_holds_every_sequence_whole_and_equal_lengths_side_by_side(sizes, row_len):
    rows = pack(sizes, row_len)
    shape = (len(rows), row_len)
    positions, owner = np.zeros(shape, np.int64), np.full(shape, -1)
    for row, members in enumerate(rows):
        start = 0
        for index in members:
            positions[row, start : start + sizes[index]] = np.arange(sizes[index])
            owner[row, start : start + sizes[index]] = index
            start += sizes[index]
        positions[row, start:] = np.arange(row_len - start)
    places, found = stream_order(positions, owner >= 0)
    assert list(found) == sorted(sizes, reverse=True)
    ends = np.cumsum(found)
    pieces = [owner.ravel()[places[end - n : end]] for end, n in zip(ends, found, strict=True)]
    assert all(len(set(piece)) == 1 and sizes[piece[0]] == len(piece) for piece in pieces)
    assert sorted(piece[0] for piece in pieces) == list(range(len(sizes)))
    assert (positions.ravel()[places] == np.concatenate([np.arange(n) for n in found])).all()
