"""Packing: which sequences share a row. Best fit, longest first, so that little of a row is padding.

Packed sequences stay separate: positions restart at 0 in each, and no label reaches over a border, because
the first token of a sequence is never a target.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from mmpt.store.errors import UserError


def pack(lengths: Sequence[int], row_len: int) -> list[list[int]]:
    """Assign sequences to rows of ``row_len`` tokens: best fit, by falling length, ties by index.

    Args:
        lengths: tokens of each sequence.

    Returns:
        One list of indices into ``lengths`` a row, in the order in which they lie in it. Every index occurs
        once and no row is over-full. Best fit decreasing needs at most 11/9 of the optimal number of rows,
        plus one.

    Raises:
        UserError: a sequence is longer than a row.
    """
    require_fit(max(lengths, default=0), row_len)
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens left, row), sorted: bisect finds the tightest row that still fits
    for index in sorted(range(len(lengths)), key=lambda one: (-int(lengths[one]), one)):
        length = int(lengths[index])
        place = bisect_left(free, (length, -1))
        if place == len(free):
            rows.append([])
            left, row = row_len, len(rows) - 1
        else:
            left, row = free.pop(place)
        rows[row].append(index)
        insort(free, (left - length, row))
    return rows


def stream_order(position_ids: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Packed rows [B, L] as one stream without padding, the longest sequence first, equals in their order.

    position_ids: 0 where a sequence begins. real: which tokens are not padding.

    Returns:
        (int64 [N], for each token of the stream its place in the flattened rows; the sequences' lengths)
    """
    places = np.flatnonzero(real)
    starts = np.append(np.flatnonzero(position_ids.ravel()[places] == 0), len(places))
    lengths = np.diff(starts)
    order = np.argsort(-lengths, kind="stable")
    pieces = [places[starts[i] : starts[i + 1]] for i in order]
    return np.concatenate(pieces), tuple(lengths[order].tolist())


def require_fit(longest: int, row_len: int) -> None:
    """Refuse a row that the longest sequence does not fit into.

    Raises:
        UserError: with the smallest row length that works.
    """
    if longest > row_len:
        raise UserError(
            "a sequence does not fit into a packed row",
            found=f"{longest} tokens",
            expected=f"at most train.row_len = {row_len}",
            fix=f"set train.row_len to {longest} or more",
        )
