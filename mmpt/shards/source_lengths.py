"""Captions and durations of sources that no stage has read yet, for `doit fit` before the first build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from mmpt.codecs.cells import pyarrow_installed
from mmpt.corpus.first_look import STREAMED
from mmpt.corpus.readers import read_source
from mmpt.store.errors import UserError
from mmpt.store.tasks import MODALITIES

RECORDS = 20_000  # of each source
OPENED = 300  # sounds whose length is read, evenly over all of them
AS_FILES = ("captions", "table")  # readers whose media are files of their own


@dataclass
class SourceRecords:
    """What a look at the sources found.

    captions: modality -> the captions of its records. seconds: durations of the opened sounds.
    cut: a source has more records than were read.
    """

    captions: dict[str, list[str]] = field(default_factory=lambda: {one: [] for one in MODALITIES})
    seconds: list[float] = field(default_factory=list)
    cut: bool = False

    def durations(self, clip: float) -> np.ndarray:
        """float64 [n sounds]: those of the opened ones, repeated; `clip` where none was opened."""
        n = len(self.captions["audio"])
        known = np.array(self.seconds or [clip])
        return known[np.arange(n) * len(known) // max(1, n)]


def look(sources: Sequence[Mapping[str, Any]]) -> SourceRecords | None:
    """The records of a profile's `corpus.sources`; None where one of them cannot be read without more work.

    Read are tables, tars and parquet that are there; media are not opened, but for the headers of OPENED sounds.
    """
    if not sources or not all(map(_readable, sources)):
        return None
    found, sounds = SourceRecords(), []
    try:
        for source in sources:
            folder = Path(source["path"]).expanduser()
            records = list(islice(_records(source, folder), RECORDS + 1))
            found.cut |= len(records) > RECORDS
            for one in records[:RECORDS]:
                found.captions[one["modality"]].append(one["caption"])
                if one["modality"] == "audio" and source["reader"] in AS_FILES:
                    sounds.append((folder / one["media"]["path"], one["media"].get("duration")))
    except UserError:  # stage corpus says what is wrong with it
        return None
    for path, seconds in sounds[:: max(1, len(sounds) // OPENED)]:
        try:
            found.seconds.append(seconds or soundfile.info(path).duration)
        except soundfile.SoundFileError:
            continue  # gate S1 counts it
    return found if any(found.captions.values()) else None


def _readable(source: Mapping[str, Any]) -> bool:
    there = source["reader"] in STREAMED and Path(source.get("path", "")).expanduser().is_dir()
    return there and (source["reader"] != "parquet" or pyarrow_installed())


def _records(source: Mapping[str, Any], folder: Path) -> Iterator[Mapping[str, Any]]:
    return (one for _, one in read_source(source, folder, folder, 0, (0.0, 0.0)) if isinstance(one, dict))
