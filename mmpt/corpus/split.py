"""Train, val and test: units that must stay together, and the side of each.

Records that share a medium's content or an origin, and near duplicates, are one unit (union-find). A unit with a hint
follows it, test before val before train, so that official test records stay out of training whatever else the unit
holds. The others fall by a hash of their unit's name: the same side in every run, whatever is added to the corpus.

Records are gone over, not held: of each stay two keys, two bytes and the number of its unit.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmpt.corpus.keys import Keys
from mmpt.corpus.split_check import s2_metrics
from mmpt.store.tasks import MODALITIES, SPLITS

__all__ = ["MODALITIES", "SPLITS", "deal", "s2_metrics"]

FEW = 4  # units that val and test get at least, where there are enough to share
FREE = -1  # a unit without a hint
_CHUNK = 1 << 16  # records handed to Python at once by the union-find


@dataclass(frozen=True)
class Units:
    """Which records belong together.

    of: int32 [records], each record's unit. hint: int8 [units], index into SPLITS or FREE.
    modalities: uint8 [units], a bit for each of MODALITIES. joined: bool [units], whether it has several origins.
    """

    of: np.ndarray
    hint: np.ndarray
    modalities: np.ndarray
    joined: np.ndarray


NO_PAIRS = np.zeros((0, 2), np.int64)


def deal(
    records: Iterable[Mapping[str, Any]], val: float, test: float, alike: np.ndarray = NO_PAIRS
) -> Iterator[dict[str, Any]]:
    """One row per record, in order: {id, modality, split, unit, decided_by}; `val` and `test` are shares of
    units. A unit is named by the first origin in it by alphabet.

    `records` is gone over three times, so it is a list or reads a file (JsonLines), not an iterator.

    Args:
        alike: int [pairs, 2], places of records that stay together: near duplicates.
    """
    units = _units(records, alike)
    positions, names = _positions(records, units)
    sides = units.hint.copy()
    free = units.hint == FREE
    for kinds in np.unique(units.modalities[free]):
        part = np.flatnonzero(free & (units.modalities == kinds))
        sides[part] = _by_hash(positions[part], val, test)
    for record, unit in zip(records, units.of, strict=True):
        yield {
            "id": record["id"],
            "modality": record["modality"],
            "split": SPLITS[sides[unit]],
            "unit": names.get(unit, record["origin"]),
            "decided_by": "hash" if free[unit] else "hint",
        }


def _units(records: Iterable[Mapping[str, Any]], alike: np.ndarray) -> Units:
    origins, contents = Keys(), Keys()
    hints, modalities = array("b"), bytearray()
    for record in records:
        origins.add(record["origin"])
        contents.add(record["content_sha256"])
        hints.append(SPLITS.index(record["split_hint"]) if record["split_hint"] else FREE)
        modalities.append(1 << MODALITIES.index(record["modality"]))
    (origin, n_origins), (content, n_contents) = origins.groups(), contents.groups()
    root = _roots(origin, content, n_origins, n_contents, alike)
    known, unit_of_origin = np.unique(root, return_inverse=True)
    of = unit_of_origin.astype(np.int32)[origin]
    hint, bits = np.full(len(known), FREE, np.int8), np.zeros(len(known), np.uint8)
    np.maximum.at(hint, of, np.frombuffer(hints, np.int8))  # the strictest: SPLITS is in that order
    np.bitwise_or.at(bits, of, np.frombuffer(modalities, np.uint8))
    return Units(of, hint, bits, np.bincount(unit_of_origin, minlength=len(known)) > 1)


def _roots(origin: np.ndarray, content: np.ndarray, n_origins: int, n_contents: int, alike: np.ndarray) -> np.ndarray:
    """int32 [n_origins]: the same number for origins that a chain of shared contents or near duplicates joins.

    origin, content: int32 [records], each record's numbers. alike: int [pairs, 2], places of records.
    """
    parent = array("i", range(n_origins))
    first = array("i", [-1]) * n_contents  # the first origin that a content came with

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for start in range(0, len(origin), _CHUNK):
        part = slice(start, start + _CHUNK)
        for one, medium in zip(origin[part].tolist(), content[part].tolist(), strict=True):
            if (other := first[medium]) < 0:
                first[medium] = one
            elif other != one:
                parent[root(other)] = root(one)
    for one, other in origin[alike].tolist():
        parent[root(other)] = root(one)
    for node in range(n_origins):
        parent[node] = root(node)
    return np.frombuffer(parent, np.int32) if n_origins else np.zeros(0, np.int32)


def _positions(records: Iterable[Mapping[str, Any]], units: Units) -> tuple[np.ndarray, dict[int, str]]:
    """(uint64 [units]: each unit's place on the hash line; unit -> name of those with several origins)."""
    positions = np.zeros(len(units.hint), np.uint64)
    placed = np.zeros(len(units.hint), bool)
    names: dict[int, str] = {}
    for record, unit in zip(records, units.of, strict=True):
        if units.joined[unit]:
            names[unit] = min(names.get(unit, record["origin"]), record["origin"])
        elif not placed[unit]:
            positions[unit], placed[unit] = _position(record["origin"]), True
    for unit, name in names.items():
        positions[unit] = _position(name)
    return positions, names


def _by_hash(positions: np.ndarray, val: float, test: float) -> np.ndarray:
    """int8 [n], index into SPLITS: units below the share `test` on the hash line are test, the next `val`; short
    sides take the next in line.
    """
    n, at = len(positions), positions.astype(np.float64) / 2**64
    few = min(FEW, max(1, n // 4)) if n >= 3 else 0
    in_test = max(int((at < test).sum()), few if test else 0)
    in_val = max(int(((at >= test) & (at < test + val)).sum()), few if val else 0)
    sides = np.zeros(n, np.int8)
    order = np.argsort(positions, kind="stable")
    sides[order[in_test : in_test + in_val]] = SPLITS.index("val")
    sides[order[:in_test]] = SPLITS.index("test")
    return sides


def _position(unit: str) -> int:
    """A unit's place on the line 0..2**64."""
    return int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8], "big")
