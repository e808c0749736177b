"""Corpus sources by the name of their reader: each turns a profile's source section into records and
problems.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from mmpt.corpus import audiocaps, captions, clotho, llava_pretrain, musiccaps, parquet, table, wavcaps, webdataset
from mmpt.corpus.generated import Generated, generate_pictures, generate_sounds
from mmpt.corpus.problems import Problem
from mmpt.corpus.sounds import SOUND_RATE
from mmpt.store.errors import UserError
from mmpt.store.numbers import Firsts

PUBLISHED = {
    "clotho": clotho.read,
    "audiocaps": audiocaps.read,
    "wavcaps": wavcaps.read,
    "musiccaps": musiccaps.read,
    "llava_pretrain": llava_pretrain.read,
    "table": table.read,
    "webdataset": webdataset.read,
    "parquet": parquet.read,
}
"""Reader -> function of (folder, section of the profile): published data sets, and tables with their own names."""


def read_source(
    source: Mapping[str, Any],
    folder: Path | None,
    out: Path,
    seed: int,
    shares: tuple[float, float],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[str, dict | Problem]]:
    """(where, record or problem) of one source of the profile; `where` is what a message points to.

    `folder` is the source's own; media that a reader makes go below `out`, whose root is called "corpus".
    `shares` are (val, test), for readers that decide the split themselves.
    """
    if source["reader"] == "generated":
        yield from _generated(source, out, seed, shares, progress)
        return
    if folder is None or not folder.is_dir():
        raise UserError(
            "the source has no folder",
            where=f"corpus source {source['name']}",
            found=folder or "nothing",
            expected="path: a folder",
        )
    if source["reader"] == "captions":
        yield from captions.read(folder, source["name"], source.get("license", "unknown"), source.get("limit"))
    else:
        yield from PUBLISHED[source["reader"]](folder, source)


def distinct(found: Iterable[tuple[str, str, dict | Problem]]) -> Iterator[dict | Problem]:
    """Records and problems of (source, where, record or problem); a second record with one id is a problem."""
    seen = Firsts()
    for name, where, item in found:
        if isinstance(item, Problem) or (first := seen.before(item["id"], where)) is None:
            yield item
        else:
            yield _duplicate(item, name, where, first)


def no_records(n_bad: int) -> UserError:
    """The error for a corpus without a single good record."""
    return UserError(
        "the corpus has no usable record",
        where="corpus.sources",
        found=f"{n_bad} bad records",
        expected="at least one record",
    )


def _duplicate(record: Mapping[str, Any], name: str, where: str, first: str) -> Problem:
    return Problem(
        "duplicate_id",
        name,
        where,
        record["id"],
        "duplicate id",
        record["id"],
        "an id that occurs once in the whole corpus",
        f"rename one of them; the first is at {first}",
    )


def _generated(
    source: Mapping[str, Any],
    out: Path,
    seed: int,
    shares: tuple[float, float],
    progress: Callable[[int, int], None],
) -> Iterator[tuple[str, dict]]:
    val, test = shares
    made = [
        *generate_pictures(seed, source["pictures"], val=val, test=test),
        *generate_sounds(seed, source["sounds"], val=val, test=test),
    ]
    records = [{**item.record, "category": None} for item in made]
    if source.get("shuffle_train_captions"):
        records = _shuffled(records, seed)
    for done, (item, record) in enumerate(zip(made, records, strict=True)):
        _write(item, out)
        if done % 100 == 0:
            progress(done, len(made))
        yield record["media"]["path"], record


def _write(item: Generated, out: Path) -> None:
    """One medium, as PNG or 16-bit WAV: both are the same bytes every time."""
    path = out / item.record["media"]["path"]
    path.parent.mkdir(parents=True, exist_ok=True)
    if item.record["modality"] == "image":
        Image.fromarray(item.medium).save(path, format="PNG", compress_level=1)
    else:
        soundfile.write(path, item.medium, SOUND_RATE, subtype="PCM_16", format="WAV")


def _shuffled(records: list[dict], seed: int) -> list[dict]:
    """A negative control: training captions dealt out again within each modality, so that they describe
    nothing.
    """
    rng = np.random.default_rng([seed, 7])
    result = list(records)
    for modality in ("image", "audio"):
        at = [i for i, r in enumerate(records) if r["modality"] == modality and r["split_hint"] == "train"]
        for to, source in zip(at, rng.permutation(at), strict=True):
            spoken = records[int(source)]
            result[to] = {**records[to], "caption": spoken["caption"], "mentioned": spoken["mentioned"]}
    return result
