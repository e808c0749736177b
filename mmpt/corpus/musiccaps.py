"""Reader `musiccaps`: a table of captioned cuts of YouTube videos, as MusicCaps publishes it.

    musiccaps-public.csv    ytid, start_s, end_s, caption; is_audioset_eval where there is one; other columns
                            are not read. Another table with these columns is named by `file:`.
    *.wav, *.flac ..        see `youtube.py` for the names

Rows of AudioSet's evaluation set are the official test and stay out of training. Origins are YouTube ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mmpt.corpus.media_folder import MediaFolder
from mmpt.corpus.problems import Problem
from mmpt.corpus.published import Entry, need_file, to_records
from mmpt.corpus.tables import Line, csv_header, csv_lines, need_columns
from mmpt.corpus.youtube import ClipFiles, uncut

FILE = "musiccaps-public.csv"
COLUMNS = ("ytid", "start_s", "end_s", "caption")
LICENSE = "CC-BY-SA-4.0 captions; audio YouTube, by uploader"


def read(folder: Path, source: Mapping[str, Any]) -> Iterator[tuple[str, dict | Problem]]:
    """(where, record or problem): one record a row, `<source>:<ytid>:<start_s>`.

    Raises:
        UserError: no table, a missing column, no audio at all.
    """
    name = source["name"]
    table = need_file(folder, source.get("file", FILE), source.get("metadata", "."), name)
    where = f"{name}/{table.name}"
    need_columns(csv_header(table, where), COLUMNS, where)
    media = MediaFolder.of(folder, source.get("media", "."))
    files = ClipFiles.of(media)
    lines = csv_lines(table, where, keep=COLUMNS)
    entries = [_entry(line, f"{where}:{line.number}", folder, files, source) for line in lines]
    return to_records(entries, name, {"table": media.packed()}, source.get("limit"), media.to_convert())


def _entry(line: Line, where: str, folder: Path, files: ClipFiles, source: Mapping[str, Any]) -> Entry:
    part, name = "table", source["name"]
    if line.fields is None:
        return Entry(where, part, fault=line.fault)
    video, start, end = (line.fields[column].strip() for column in COLUMNS[:3])
    if not video or not _is_time(start) or not _is_time(end) or float(end) <= float(start):
        shown = f"ytid {video!r}, start_s {start!r}, end_s {end!r}"
        fault = ("bad_line", "not a clip", shown, "an id, and two times in seconds", "correct the line")
        return Entry(where, part, fault=fault)
    paths = files.find(video, float(start))
    return Entry(
        where,
        part,
        id=f"{name}:{video}:{start}",
        medium=f"{video} from {start} to {end} s",
        found=paths,
        caption=line.fields["caption"],
        origin=f"youtube:{video}",
        source=name,
        license=source.get("license", LICENSE),
        split="test" if line.fields.get("is_audioset_eval", "").strip().lower() in ("true", "1") else None,
        look=partial(uncut, folder, paths, float(end) - float(start)),
    )


def _is_time(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()
