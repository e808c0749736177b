"""Packing: which sequences share a row. Best fit, longest first, so that rows have little padding.

Packed sequences stay separate: positions restart at 0 in each, and the first token of a sequence is never a target, so
no label depends on the sequence before.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from mmpt.store.errors import UserError


def pack(lengths: Sequence[int], row_len: int) -> list[list[int]]:
    """Assign sequences to rows of ``row_len`` tokens: best fit, by falling length, ties by index.

    Args:
        lengths: number of tokens of each sequence.

    Returns:
        For each row the indices into ``lengths`` of its sequences, in their order in the row. Every index occurs once,
        and no row has more than ``row_len`` tokens. Best fit decreasing needs at most 11/9 of the optimal number of
        rows, plus one.

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
    """Packed rows [B, L] as one stream without padding: longest sequence first, equal lengths in their order.

    Args:
        position_ids: int [B, L], 0 where a sequence begins.
        real: bool [B, L], False at padding.

    Returns:
        (int64 [N], the place in the flattened rows of each token of the stream; the lengths of the sequences)
    """
    places = np.flatnonzero(real)
    starts = np.append(np.flatnonzero(position_ids.ravel()[places] == 0), len(places))
    lengths = np.diff(starts)
    order = np.argsort(-lengths, kind="stable")
    pieces = [places[starts[i] : starts[i + 1]] for i in order]
    return np.concatenate(pieces), tuple(lengths[order].tolist())


def require_fit(longest: int, row_len: int) -> None:
    """Check that the longest sequence fits into a row.

    Raises:
        UserError: it does not; names the smallest row length that works.
    """
    if longest > row_len:
        raise UserError(
            "a sequence does not fit into a packed row",
            found=f"{longest} tokens",
            expected=f"at most train.row_len = {row_len}",
            fix=f"set train.row_len to {longest} or more",
        )
