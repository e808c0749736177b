"""The counts of gate S2, made from manifest and split rows alone, independently of the code that made the split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mmpt.corpus.keys import Keys
from mmpt.store.canonical import canonical_json
from mmpt.store.evidence import Metric
from mmpt.store.tasks import MODALITIES, SPLITS

NONE = -1  # no row, a row with another split, or a record of another modality


def s2_metrics(
    records: Iterable[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]], alike: np.ndarray | None = None
) -> list[Metric]:
    """Metrics of one pass over the rows and one over the records; of each stay keys and a few bytes.

    Of two rows with one id the last counts, and the id counts as a record without a split.

    Args:
        alike: int [pairs, 2], places of near duplicates among the records; None: there are no media to tell.
    """
    ids, contents, origins, combinations = Keys(), Keys(), Keys(), Keys()
    sides, modalities, official, described = bytearray(), bytearray(), bytearray(), bytearray()
    for row in rows:
        ids.add(row["id"])
        sides.append(SPLITS.index(row["split"]) + 1 if row["split"] in SPLITS else 0)
    for record in records:
        ids.add(record["id"])
        contents.add(record["content_sha256"])
        origins.add(record["origin"])
        modalities.append(MODALITIES.index(record["modality"]) + 1 if record["modality"] in MODALITIES else 0)
        official.append(record["split_hint"] == "test")
        described.append(bool(record["attributes"]))
        if record["attributes"]:
            combinations.add(canonical_json([record["modality"], record["attributes"]]).decode())
    n, n_rows = len(contents), len(sides)
    side, distinct = sides_by_id(ids, np.frombuffer(sides, np.uint8).astype(np.int8) - 1)
    known = side != NONE
    test = SPLITS.index("test")
    from_test = known & np.frombuffer(official, bool)
    metrics = [
        _torn("content_in_two_splits", contents, side),
        _torn("origins_in_two_splits", origins, side),
        Metric(
            "official_test_in_train",
            int((side[from_test] != test).sum()),
            int(from_test.sum()),
            "records",
            "lower",
        ),
        Metric("records_without_split", n - int(known.sum()) + n_rows - distinct, n, "records", "lower"),
    ]
    if alike is not None:
        sides_of = side[alike]
        torn = (sides_of != NONE).all(axis=1) & (sides_of[:, 0] != sides_of[:, 1])
        metrics.append(Metric("near_duplicates_in_two_splits", int(torn.sum()), n, "pairs", "lower"))
    modality = np.frombuffer(modalities, np.uint8)
    for kind, name in enumerate(MODALITIES, 1):
        there = np.bincount(side[known & (modality == kind)], minlength=len(SPLITS))
        metrics += [
            Metric("records_in_split", int(there[at]), n, "records", "higher", slice=f"{name}.{split}")
            for at, split in enumerate(SPLITS)
        ]
    shown = side[np.frombuffer(described, bool)]
    if (shown != NONE).any():
        metrics.append(_torn("combinations_in_two_splits", combinations, shown))
    return metrics


def sides_by_id(ids: Keys, dealt: np.ndarray) -> tuple[np.ndarray, int]:
    """(int8 [records]: index into SPLITS or NONE; how many ids the rows have).

    Args:
        ids: of the split's rows, then of the records.
        dealt: int8 [rows], index into SPLITS or NONE. Of two rows with one id the last counts.
    """
    group, n_groups = ids.groups()
    of_row, of_record = group[: len(dealt)], group[len(dealt) :]
    side = np.full(n_groups, NONE, np.int8)
    said = dealt != NONE
    side[of_row[said]] = dealt[said]  # where an index occurs twice, numpy keeps the last value
    return side[of_record], int(np.count_nonzero(np.bincount(of_row, minlength=n_groups)))


def _torn(name: str, keys: Keys, side: np.ndarray) -> Metric:
    """How many keys occur on more than one side; `side` is int8 [keys]."""
    group, n_groups = keys.groups()
    known = side != NONE
    found = np.zeros(n_groups, np.uint8)
    np.bitwise_or.at(found, group[known], (1 << side[known]).astype(np.uint8))
    several = (found & (found - 1)) != 0  # more than one bit; 0 - 1 is masked by 0
    return Metric(name, int(several.sum()), int(np.count_nonzero(found)), "items", "lower")
