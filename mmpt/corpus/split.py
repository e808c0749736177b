"""Train, val and test: units that may not be torn apart, and which side each falls on.

Records that share a medium's content or an origin are one unit (union-find). A unit with a hint follows it,
test before val before train, so that official test records stay out of training whatever else the unit holds.
The others fall by a hash of their unit's name: the same side in every run, whatever is added to the corpus.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmpt.store.evidence import Metric

SPLITS = ("train", "val", "test")
MODALITIES = ("audio", "image")
FEW = 4  # units that val and test get at least, where there are enough to share


def assign(records: Sequence[Mapping[str, Any]], val: float, test: float) -> list[dict[str, Any]]:
    """One row a record, in order: {id, modality, split, unit, decided_by}; `val` and `test` are shares of
    units.
    """
    units = _units(records)
    hints: dict[str, set[str]] = defaultdict(set)
    modalities: dict[str, set[str]] = defaultdict(set)
    for record, unit in zip(records, units, strict=True):
        modalities[unit].add(record["modality"])
        if record["split_hint"]:
            hints[unit].add(record["split_hint"])
    sides = {unit: _strictest(found) for unit, found in hints.items()}
    strata: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for unit, kinds in modalities.items():
        if unit not in sides:
            strata[tuple(sorted(kinds))].append(unit)
    for free in strata.values():
        sides |= _by_hash(free, val, test)
    return [
        {
            "id": r["id"],
            "modality": r["modality"],
            "split": sides[unit],
            "unit": unit,
            "decided_by": "hint" if unit in hints else "hash",
        }
        for r, unit in zip(records, units, strict=True)
    ]


def _units(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each record's unit, named by the first origin in it by alphabet."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for record in records:
        first, *others = (f"origin {record['origin']}", f"content {record['content_sha256']}")
        parent.setdefault(first, first)
        for other in others:
            parent.setdefault(other, other)
            parent[root(other)] = root(first)
    named: dict[str, str] = {}
    for record in records:
        node = root(f"origin {record['origin']}")
        named[node] = min(named.get(node, record["origin"]), record["origin"])
    return [named[root(f"origin {record['origin']}")] for record in records]


def _strictest(hints: Iterable[str]) -> str:
    return max(hints, key=SPLITS.index)


def _by_hash(units: Sequence[str], val: float, test: float) -> dict[str, str]:
    """Units below the share `test` on the hash line are test, the next `val`; short sides take the next in
    line.
    """
    placed = sorted((_position(unit), unit) for unit in units)
    n = len(placed)
    few = min(FEW, max(1, n // 4)) if n >= 3 else 0
    in_test = sum(at < test for at, _ in placed)
    in_val = sum(test <= at < test + val for at, _ in placed)
    in_test = max(in_test, few if test else 0)
    in_val = max(in_val, few if val else 0)
    return {
        unit: "test" if rank < in_test else "val" if rank < in_test + in_val else "train"
        for rank, (_, unit) in enumerate(placed)
    }


def _position(unit: str) -> float:
    """A unit's place on the line 0..1."""
    return int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8], "big") / 2**64


def s2_metrics(records: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """What gate S2 asks, counted anew from manifest and split rows; `assign` is not trusted."""
    side = {row["id"]: row["split"] for row in rows if row["split"] in SPLITS}
    known = [r for r in records if r["id"] in side]
    twice = len(rows) - len({row["id"] for row in rows})  # the last row would win: which side is not known
    official = [r for r in known if r["split_hint"] == "test"]
    metrics = [
        _torn("content_in_two_splits", ((r["content_sha256"], side[r["id"]]) for r in known)),
        _torn("origins_in_two_splits", ((r["origin"], side[r["id"]]) for r in known)),
        Metric(
            "official_test_in_train",
            sum(side[r["id"]] != "test" for r in official),
            len(official),
            "records",
            "lower",
        ),
        Metric("records_without_split", len(records) - len(known) + twice, len(records), "records", "lower"),
    ]
    for modality in MODALITIES:
        there = Counter(side[r["id"]] for r in known if r["modality"] == modality)
        metrics += [
            Metric(
                "records_in_split",
                there[split],
                len(records),
                "records",
                "higher",
                slice=f"{modality}.{split}",
            )
            for split in SPLITS
        ]
    described = [r for r in known if r["attributes"]]
    if described:
        metrics.append(
            _torn("combinations_in_two_splits", ((_combination(r), side[r["id"]]) for r in described))
        )
    return metrics


def _combination(record: Mapping[str, Any]) -> tuple:
    return record["modality"], *sorted(record["attributes"].items())


def _torn(name: str, pairs: Iterable[tuple[Any, str]]) -> Metric:
    """How many keys occur on more than one side."""
    sides: dict[Any, set[str]] = defaultdict(set)
    for key, split in pairs:
        sides[key].add(split)
    return Metric(name, sum(len(found) > 1 for found in sides.values()), len(sides), "items", "lower")
