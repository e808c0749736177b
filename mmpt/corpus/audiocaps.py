"""Reader `audiocaps`: AudioCaps 1.0 or 2.0 as published, and clips under the names of the usual downloaders.

    train.csv, val.csv, test.csv    audiocap_id, youtube_id, start_time, caption
    *.wav, *.flac ..                see `youtube.py` for the names

A caption a row: val and test have five for each clip. A clip's origin is its YouTube id, so that WavCaps' and
MusicCaps' cuts of the same video stay on the same side. Test is official and stays out of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mmpt.corpus.media_folder import MediaFolder
from mmpt.corpus.problems import Problem
from mmpt.corpus.published import Entry, find_file, to_records
from mmpt.corpus.tables import Line, csv_header, csv_lines, need_columns
from mmpt.corpus.youtube import ClipFiles, uncut
from mmpt.store.errors import UserError
from mmpt.store.tasks import SPLITS

COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
LICENSE = "YouTube, by uploader"
SECONDS = 10.0


def read(folder: Path, source: Mapping[str, Any]) -> Iterator[tuple[str, dict | Problem]]:
    """(where, record or problem): one record a row, `audiocaps:<audiocap_id>`.

    Raises:
        UserError: no table or two of a name, a missing column, a split without any audio.
    """
    name, below = source["name"], source.get("metadata", ".")
    media = MediaFolder.of(folder, source.get("media", "."))
    tables = {s: t for s in SPLITS if (t := find_file(folder, f"{s}.csv", below, name, needed=False))}
    if not tables:
        raise UserError(
            "no train.csv, val.csv or test.csv below the source's folder",
            where=f"corpus source {name}",
            found=str(folder / below),
            expected="the published tables of AudioCaps",
        )
    files = ClipFiles.of(media)
    entries = [entry for split, table in tables.items() for entry in _entries(folder, split, table, files, source)]
    return to_records(entries, name, dict.fromkeys(tables, media.packed()), source.get("limit"), media.to_convert())


def _entries(folder: Path, split: str, table: Path, files: ClipFiles, source: Mapping[str, Any]) -> Iterator[Entry]:
    file = f"{source['name']}/{table.name}"
    need_columns(csv_header(table, file), COLUMNS, file)
    for line in csv_lines(table, file, keep=COLUMNS):
        yield _entry(line, f"{file}:{line.number}", folder, split, files, source)


def _entry(line: Line, where: str, folder: Path, split: str, files: ClipFiles, source: Mapping[str, Any]) -> Entry:
    if line.fields is None:
        return Entry(where, split, fault=line.fault)
    number, video, start = (line.fields[column].strip() for column in COLUMNS[:3])
    if not number.isdecimal() or not video or not start.replace(".", "", 1).isdecimal():
        shown = f"audiocap_id {number!r}, youtube_id {video!r}, start_time {start!r}"
        fault = ("bad_line", "not a clip", shown, "a number, an id and a time in seconds", "correct the line")
        return Entry(where, split, fault=fault)
    paths = files.find(video, float(start), number)
    return Entry(
        where,
        split,
        id=f"audiocaps:{number}",
        medium=f"{video} from {start} s",
        found=paths,
        caption=line.fields["caption"],
        origin=f"youtube:{video}",
        source="audiocaps",
        license=source.get("license", LICENSE),
        split=split,
        look=partial(uncut, folder, paths, SECONDS),
    )
