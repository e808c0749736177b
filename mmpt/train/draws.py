"""What a run drew: how often each training example was put into a batch, and the records of these examples.

The counts are part of a checkpoint, so a resumed run publishes what all of its parts drew. They are taken from the
batches themselves and not from the profile: a run that reads another split shows here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.shards.mixture import KINDS
from mmpt.store.evidence import Metric
from mmpt.store.jsonl import iter_jsonl, write_jsonl

DRAWS = "draws.jsonl"
_PREFIX = "draws."


@dataclass(frozen=True, eq=False)
class Draws:
    """Counts by kind (a task or "text"): int32 [examples of that kind], how often each was drawn.

    Every rank lays out the whole batch and trains its share of the rows, so the counts of one rank are those of all.
    """

    counts: Mapping[str, np.ndarray]

    def __eq__(self, other: object) -> bool:
        """Whether both counted the same draws of the same kinds."""
        if not isinstance(other, Draws) or self.counts.keys() != other.counts.keys():
            return False
        return all(np.array_equal(one, other.counts[kind]) for kind, one in self.counts.items())

    @classmethod
    def none(cls, sources: Mapping[str, Any]) -> Draws:
        """Nothing drawn yet. sources: examples by kind."""
        return cls({kind: np.zeros(len(source), np.int32) for kind, source in sources.items()})

    def add(self, draws: Iterable[tuple[str, int, bool]]) -> None:
        """Count one batch's draws: (kind, index of the example, prompt dropped)."""
        for kind, index, _ in draws:
            self.counts[kind][index] += 1

    def tensors(self) -> dict[str, np.ndarray]:
        """For the checkpoint, by name."""
        return {f"{_PREFIX}{kind}": counts for kind, counts in self.counts.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Any]) -> Draws:
        """The inverse of `tensors`; other names are left out."""
        return cls(
            {
                name.removeprefix(_PREFIX): np.array(value, np.int32)
                for name, value in tensors.items()
                if name.startswith(_PREFIX)
            }
        )

    def by_record(self, sources: Mapping[str, Any]) -> dict[str, dict[str, int]]:
        """{record id: {task: draws}} of every record that was drawn. Replayed text has no records."""
        found: dict[str, dict[str, int]] = {}
        for task, counts in self.counts.items():
            if task == "text":
                continue
            for index in np.flatnonzero(counts).tolist():
                found.setdefault(sources[task].record(index)["id"], {})[task] = int(counts[index])
        return found


def write_draws(path: Path, draws: Draws, sources: Mapping[str, Any]) -> None:
    """One line for each drawn record, by id (schema draw): its draws by task."""
    found = draws.by_record(sources)
    write_jsonl(
        path,
        (
            {"id": name, "draws": {task: found[name][task] for task in KINDS if task in found[name]}}
            for name in sorted(found)
        ),
    )


def read_draws(path: Path) -> Iterator[tuple[str, dict[str, int]]]:
    """(record id, draws by task) of each line."""
    return ((row["id"], row["draws"]) for row in iter_jsonl(path))


def draw_metrics(drawn: Path, split: Path) -> list[Metric]:
    """drawn_outside_train: drawn records that `split` does not give to train; n: the records drawn.

    Args:
        drawn: a draws.jsonl. split: split.jsonl, which decides.
    """
    train = {row["id"] for row in iter_jsonl(split) if row["split"] == "train"}
    ids = {name for name, _ in read_draws(drawn)}
    return [Metric("drawn_outside_train", len(ids - train), len(ids), "records", "lower")]


def never_drawn_metrics(draws: Draws) -> list[Metric]:
    """examples_never_drawn for each task: how many of its n examples no step has seen."""
    return [
        Metric("examples_never_drawn", int((counts == 0).sum()), len(counts), "examples", "lower", slice=kind)
        for kind, counts in draws.counts.items()
        if kind != "text"
    ]
