"""The split over lists and dicts of texts, as it is easiest to read: what mmpt.corpus.split must agree with."""

import hashlib
from collections import Counter, defaultdict

from mmpt.store.evidence import Metric

SPLITS, MODALITIES, FEW = ("train", "val", "test"), ("audio", "image"), 4


def assign(records, val, test):
    units = units_of(records)
    hints, modalities = defaultdict(set), defaultdict(set)
    for record, unit in zip(records, units, strict=True):
        modalities[unit].add(record["modality"])
        if record["split_hint"]:
            hints[unit].add(record["split_hint"])
    sides = {unit: max(found, key=SPLITS.index) for unit, found in hints.items()}
    strata = defaultdict(list)
    for unit, kinds in modalities.items():
        if unit not in sides:
            strata[tuple(sorted(kinds))].append(unit)
    for free in strata.values():
        sides |= by_hash(free, val, test)
    return [
        {
            "id": record["id"],
            "modality": record["modality"],
            "split": sides[unit],
            "unit": unit,
            "decided_by": "hint" if unit in hints else "hash",
        }
        for record, unit in zip(records, units, strict=True)
    ]


def units_of(records):
    """Each record's unit: the least origin that a chain of shared origins and contents leads to."""
    units, moved = [r["origin"] for r in records], True
    while moved:
        before = units
        for key in ("origin", "content_sha256"):
            least = {}
            for record, unit in zip(records, units, strict=True):
                least[record[key]] = min(unit, least.get(record[key], unit))
            units = [least[record[key]] for record in records]
        moved = units != before
    return units


def by_hash(units, val, test):
    placed = sorted((int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8], "big") / 2**64, unit) for unit in units)
    n = len(placed)
    few = min(FEW, max(1, n // 4)) if n >= 3 else 0
    in_test = max(sum(at < test for at, _ in placed), few if test else 0)
    in_val = max(sum(test <= at < test + val for at, _ in placed), few if val else 0)
    return {
        unit: "test" if rank < in_test else "val" if rank < in_test + in_val else "train"
        for rank, (_, unit) in enumerate(placed)
    }


def s2_metrics(records, rows):
    side = {row["id"]: row["split"] for row in rows if row["split"] in SPLITS}
    known = [r for r in records if r["id"] in side]
    twice = len(rows) - len({row["id"] for row in rows})
    official = [r for r in known if r["split_hint"] == "test"]
    wrong = sum(side[r["id"]] != "test" for r in official)
    metrics = [
        torn("content_in_two_splits", ((r["content_sha256"], side[r["id"]]) for r in known)),
        torn("origins_in_two_splits", ((r["origin"], side[r["id"]]) for r in known)),
        Metric("official_test_in_train", wrong, len(official), "records", "lower"),
        Metric("records_without_split", len(records) - len(known) + twice, len(records), "records", "lower"),
    ]
    for modality in MODALITIES:
        there = Counter(side[r["id"]] for r in known if r["modality"] == modality)
        metrics += [
            Metric("records_in_split", there[split], len(records), "records", "higher", slice=f"{modality}.{split}")
            for split in SPLITS
        ]
    described = [r for r in known if r["attributes"]]
    if described:
        pairs = (((r["modality"], *sorted(r["attributes"].items())), side[r["id"]]) for r in described)
        metrics.append(torn("combinations_in_two_splits", pairs))
    return metrics


def torn(name, pairs):
    sides = defaultdict(set)
    for key, split in pairs:
        sides[key].add(split)
    return Metric(name, sum(len(found) > 1 for found in sides.values()), len(sides), "items", "lower")
