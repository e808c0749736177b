"""Deals pieces of work to workers deterministically: every worker computes its own share."""

from __future__ import annotations

from collections.abc import Sequence


def share(sizes: Sequence[tuple[str, float]], rank: int, world: int) -> list[int]:
    """Which pieces worker ``rank`` of ``world`` does, in their order.

    The largest piece goes first, to the worker with least of its kind, and then fewest pieces. Kinds are kept
    apart because their sizes do not compare (records of sound, pictures).

    Args:
        sizes: (kind, size) of each piece.
    """
    loads: dict[tuple[int, str], float] = {}
    counts = [0] * world
    mine = []
    for piece in sorted(range(len(sizes)), key=lambda piece: (sizes[piece][0], -sizes[piece][1], piece)):
        kind, size = sizes[piece]
        to = min(range(world), key=lambda one: (loads.get((one, kind), 0.0), counts[one], one))
        loads[to, kind] = loads.get((to, kind), 0.0) + size
        counts[to] += 1
        if to == rank:
            mine.append(piece)
    return sorted(mine)
