"""Reader `clotho`: Clotho 2.1 as published on Zenodo (4783391), five captions per recording.

    clotho_captions_{development,validation,evaluation}.csv    file_name, caption_1 .. caption_5
    clotho_metadata_{..}.csv                                   sound_id (of Freesound), license, and more
    clotho_audio_{..}.7z, unpacked                             development/*.wav and so on

development is train, validation is val, evaluation is test. A recording's origin is its Freesound id, so that
WavCaps' copy of it stays on the same side; some recordings' id is "Not found": they stand for themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mmpt.corpus.media_folder import MediaFolder, plain
from mmpt.corpus.problems import Problem
from mmpt.corpus.published import Entry, find_file, to_records
from mmpt.corpus.tables import csv_header, csv_lines, need_columns
from mmpt.store.errors import UserError

SIDES = {"development": "train", "validation": "val", "evaluation": "test"}
CAPTIONS = tuple(f"caption_{i}" for i in range(1, 6))
LICENSE = "Freesound, by sound"
# The published metadata tables are in this encoding; the captions are UTF-8.
METADATA_ENCODING = "iso-8859-1"


def read(folder: Path, source: Mapping[str, Any]) -> Iterator[tuple[str, dict | Problem]]:
    """(where, record or problem): five records per recording, `clotho:<file_name>:<0 to 4>`.

    Raises:
        UserError: no captions table, a missing column, an official split whose audio is not unpacked.
    """
    name, below = source["name"], source.get("metadata", ".")
    media = MediaFolder.of(folder, source.get("media", "."))
    tables = {
        part: table
        for part in SIDES
        if (table := find_file(folder, f"clotho_captions_{part}.csv", below, name, needed=False))
    }
    if not tables:
        raise UserError(
            "no clotho_captions_*.csv below the source's folder",
            where=f"corpus source {name}",
            found=str(folder / below),
            expected="clotho_captions_development.csv, .._validation.csv, .._evaluation.csv",
        )
    entries = [
        entry
        for part, table in tables.items()
        for entry in _entries(part, table, _sounds(folder, part, below, name), media, source)
    ]
    packed = {part: _archives(media, part) for part in tables}
    return to_records(entries, name, packed, source.get("limit"), media.to_convert())


def _entries(
    part: str,
    table: Path,
    sounds: Mapping[str, Mapping[str, str]],
    media: MediaFolder,
    source: Mapping[str, Any],
) -> Iterator[Entry]:
    name = source["name"]
    file = f"{name}/{table.name}"
    need_columns(csv_header(table, file), ("file_name", *CAPTIONS), file)
    files = media.where(lambda path: _part_of(path) in (part, "")).by_name()
    for line in csv_lines(table, file, keep=("file_name", *CAPTIONS)):
        where = f"{file}:{line.number}"
        if line.fields is None:
            yield Entry(where, part, fault=line.fault)
            continue
        sound = plain(line.fields["file_name"])
        about = sounds.get(sound, {})
        number = about.get("sound_id", "").strip()
        for at, column in enumerate(CAPTIONS):
            yield Entry(
                where,
                part,
                id=f"clotho:{sound}:{at}",
                medium=f"{part}/{sound}",
                found=files.get(sound, ()),
                caption=line.fields[column],
                origin=f"freesound:{number}" if number.isdigit() else f"clotho:{sound}",
                source="clotho",
                license=about.get("license", "").strip() or source.get("license", LICENSE),
                split=SIDES[part],
            )


def _sounds(folder: Path, part: str, below: str, name: str) -> dict[str, Mapping[str, str]]:
    """File name -> its row of the metadata table; nothing where that was not downloaded."""
    table = find_file(folder, f"clotho_metadata_{part}.csv", below, name, needed=False)
    if table is None:
        return {}
    where = f"{name}/{table.name}"
    need_columns(csv_header(table, where, METADATA_ENCODING), ("file_name", "sound_id", "license"), where)
    rows = csv_lines(table, where, ("file_name",), METADATA_ENCODING)
    return {plain(row.fields["file_name"]): row.fields for row in rows if row.fields}


def _part_of(path: PurePosixPath) -> str:
    """The official split that one of the path's folders names; "" where none does."""
    named = (part for folder in reversed(path.parent.parts) for part in SIDES if part in folder.lower())
    return next(named, "")


def _archives(media: MediaFolder, part: str) -> str:
    return MediaFolder((), tuple(a for a in media.archives if part in PurePosixPath(a).name)).packed()
