"""Free-running quality of generated outputs, measured on ids and files. No model, no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.codecs.media import load_image
from mmpt.corpus import oracle
from mmpt.evaluate.media import read_wav
from mmpt.store.tasks import MODALITY_OF
from mmpt.tokens import TokenSpace
from mmpt.tokens.stream import Stream

Row = Mapping[str, Any]
LOOP = 8  # equal frames in a row that count as a loop


def duplicate_rate(rows: Sequence[Row]) -> float:
    """Share of outputs equal to the output of another prompt that says something else.

    What a prompt says are the attributes it mentions where they are known, else its words: two wordings of
    one description may well give one output.
    """
    said: dict[tuple, set] = {}
    for row in rows:
        said.setdefault(tuple(row["ids"]), set()).add(_meaning(row))
    return float(np.mean([len(said[tuple(row["ids"])]) > 1 for row in rows]))


def _meaning(row: Row) -> Any:
    if not row["attributes"] or not row["mentioned"]:
        return row["caption"]
    return tuple(sorted((name, row["attributes"][name]) for name in row["mentioned"]))


def longest_run(ids: np.ndarray, stream: Stream) -> int:
    """Most equal frames in a row."""
    frames = stream.unflat(np.asarray(ids)[: len(ids) // stream.width * stream.width]).T
    if not len(frames):
        return 0
    edges = np.flatnonzero(np.concatenate([[True], (frames[1:] != frames[:-1]).any(1), [True]]))
    return int(np.diff(edges).max())


def looped_rate(rows: Sequence[Row], targets: Sequence[np.ndarray], stream: Stream) -> float:
    """Share of sounds with a run of LOOP equal frames or more, longer than any in a target.

    Silence repeats frames in real sounds too; the targets say how long that goes on.
    """
    usual = max((longest_run(ids, stream) for ids in targets), default=0)
    runs = [longest_run(np.asarray(row["ids"]), stream) for row in rows]
    return float(np.mean([run >= LOOP and run > usual for run in runs]))


def constant_rate(rows: Sequence[Row], targets: Sequence[np.ndarray], stream: Stream) -> float:
    """Share of outputs that are one frame throughout, where their target is not."""
    return float(
        np.mean(
            [
                longest_run(row["ids"], stream) * stream.width == len(row["ids"])
                and longest_run(target, stream) * stream.width < len(target)
                for row, target in zip(rows, targets, strict=True)
            ]
        )
    )


def codebook_usage(rows: Sequence[Row], targets: Sequence[np.ndarray], space: TokenSpace) -> float:
    """Distinct ids in the outputs over those in the targets, mean over the segments in use."""
    used = np.unique(np.concatenate([np.asarray(row["ids"], np.int64) for row in rows]))
    wanted = np.unique(np.concatenate([np.asarray(ids, np.int64) for ids in targets]))
    shares = []
    for segment in space.ranges.values():
        in_targets = np.count_nonzero((wanted >= segment.start) & (wanted <= segment.end))
        if in_targets:
            shares.append(np.count_nonzero((used >= segment.start) & (used <= segment.end)) / in_targets)
    return float(np.mean(shares))


def oracle_hits(rows: Sequence[Row], folder: Path) -> dict[str, list[bool]]:
    """`<modality>.<attribute>` -> was it right, for each mentioned attribute of each row, read from its file.

    A file that is missing counts as wrong: nothing is left out of the mean.
    """
    hits: dict[str, list[bool]] = {}
    for row in rows:
        modality = MODALITY_OF[row["task"]]
        read = read_attributes(modality, folder / row["path"]) if row["path"] else {}
        for name in row["mentioned"]:
            hits.setdefault(f"{modality}.{name}", []).append(read.get(name) == row["attributes"][name])
    return hits


def read_attributes(modality: str, path: Path) -> dict[str, str]:
    """What the oracle sees in a png or wav; nothing where there is no file."""
    if not path.is_file():
        return {}
    if modality == "image":
        return oracle.read_picture(load_image(path))
    wave, rate = read_wav(path)
    return oracle.read_sound(wave, rate)


def token_f1(output: str, caption: str) -> float:
    """F1 of the words (lower case, order ignored) of a caption against the ground truth."""
    said, wanted = _words(output), _words(caption)
    common = sum((said & wanted).values())
    if not common:
        return 0.0
    precision, recall = common / sum(said.values()), common / sum(wanted.values())
    return 2 * precision * recall / (precision + recall)


def _words(text: str) -> Counter[str]:
    return Counter(word.strip(".,;:!?\"'").lower() for word in text.split())


def nearest_share(rows: Sequence[Row], train: Iterable[np.ndarray]) -> list[tuple[float, int]]:
    """For each output the largest share of positions equal to a training payload of its length; and which.

    (0.0, -1) where no training payload has that length.
    """
    lengths = np.array([len(row["ids"]) for row in rows])
    asked = {length: np.flatnonzero(lengths == length) for length in set(lengths.tolist())}  # places in rows
    wanted = {length: np.array([rows[place]["ids"] for place in places.tolist()]) for length, places in asked.items()}
    best, nearest = np.zeros(len(rows)), np.full(len(rows), -1)
    for index, ids in enumerate(train):
        if len(ids) not in wanted:
            continue
        places, shares = asked[len(ids)], (wanted[len(ids)] == ids).mean(axis=1)
        nearer = (shares > best[places]) | (nearest[places] < 0)
        if nearer.any():
            at = places[nearer]
            best[at], nearest[at] = shares[nearer], index
    return list(zip(best.tolist(), nearest.tolist(), strict=True))
