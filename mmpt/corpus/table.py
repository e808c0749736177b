"""Reader `table`: CSV or JSON Lines with names of their own, as imagefolder, audiofolder and NeMo write them.

    metadata.csv, metadata.jsonl    below the source's folder, or every table whose name fits the pattern `file`; media
                                    paths count from the table's own folder, absolute ones must lie below the source's
    columns                         {caption: text, audio: clip, ..}: a field of ours -> its column; `caption` may name
                                    several, and a JSON list is several captions, too

A line becomes the fields of reader `captions`, which judges them; `offset` and `duration` (seconds) make a segment.
Without a column for the split it is the one that the table's folders or name say (train, dev, validation, test ..), if
they say one. Tables that all say train leave the split to the profile.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from mmpt.codecs.media import is_file
from mmpt.corpus.captions import jsonl_lines, record
from mmpt.corpus.media_folder import AUDIO
from mmpt.corpus.problems import Problem
from mmpt.corpus.segments import named_segment, segment_of
from mmpt.corpus.source_tables import TABLES
from mmpt.corpus.tables import Line, csv_header, csv_lines, separator_hint, short
from mmpt.store.errors import UserError

NAMES: dict[str, tuple[str, ...]] = {
    "id": ("id",),
    "caption": ("caption", "text"),
    "audio": ("audio", "audio_filepath"),
    "image": ("image",),
    "medium": ("file_name",),
    **{one: (one,) for one in ("split", "license", "source", "origin", "category", "group", "offset", "duration")},
}
"""Field of ours -> columns that it is looked for in, where `columns` says nothing. medium: a sound or a picture."""
Names = Mapping[str, tuple[str, ...]]
MEDIA = ("audio", "image", "medium")
NEMO = "audio_filepath"  # in its manifests a duration without an offset counts from the beginning
SIDES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def read(folder: Path, source: Mapping[str, Any]) -> Iterator[tuple[str, dict | Problem]]:
    """(where, record or problem), table by table; of each the first `limit` lines.

    Raises:
        UserError: no table, one that cannot be read, or one without a medium's or a caption's column.
    """
    columns = {**NAMES, **{key: several(value) for key, value in source.get("columns", {}).items()}}
    paths = tables_below(folder, source, "table", "table")
    for path, side in zip(paths, sides_of(paths), strict=True):
        table, where = folder / path, f"{source['name']}/{path.as_posix()}"
        lines = jsonl_lines(table) if table.suffix in (".json", ".jsonl") else _csv(table, where, columns)
        for line in islice(lines, source.get("limit")):
            at = f"{where}:{line.number}"
            for one in _records(line, folder, table.parent, at, columns, side, source):
                yield at, one


def tables_below(
    folder: Path, source: Mapping[str, Any], reader: str, what: str, hidden: tuple[str, ...] = (".",)
) -> list[Path]:
    """Paths below the folder, relative to it and in their order, of the source's tables.

    Args:
        reader: the files are those of its patterns in TABLES, or of the source's own `file`.
        what: what a message calls such a file.
        hidden: left out is what lies below a name that begins with one of these.

    Raises:
        UserError: there is none.
    """
    names = [source["file"]] if "file" in source else TABLES[reader]
    below_it = {path.relative_to(folder) for name in names for path in folder.rglob(name)}
    shown = sorted(path for path in below_it if not any(part.startswith(hidden) for part in path.parts))
    found = [path for path in shown if is_file(folder / path)]
    if not found:
        raise UserError(
            f"no {what} below the source's folder",
            where=f"corpus source {source['name']}",
            found=str(folder),
            expected=" or ".join(names),
            fix="" if "file" in source else "name it as `file:` of the source",
        )
    return found


def _csv(table: Path, where: str, columns: Mapping[str, tuple[str, ...]]) -> Iterator[Line]:
    header = csv_header(table, where)
    lacking = [] if any(named_in(header, columns[key]) for key in MEDIA) else ["audio or image"]
    lacking += [] if named_in(header, columns["caption"]) else ["caption"]
    if lacking:
        raise UserError(
            f"no column for {' and '.join(lacking)}",
            where=f"{where}:1",
            found=short(", ".join(header)) or "nothing",
            expected="a medium and a caption",
            fix="name it in the source: columns: {caption: .., audio: ..}"
            if len(header) > 1
            else separator_hint(header),
        )
    return csv_lines(table, where, keep=columns["caption"])


def _records(
    line: Line, folder: Path, beside: Path, where: str, names: Names, side: str | None, source: Mapping[str, Any]
) -> Iterator[dict | Problem]:
    if line.problem is not None:
        yield record(line, folder, where, source["name"], "")
        return
    given, own = line.fields or {}, {}
    found = {key: given[named[0]] for key in MEDIA if (named := named_in(given, names[key])) and given[named[0]]}
    medium = next(iter(found), None)
    if medium and isinstance(found[medium], str):
        path = below(found[medium], folder, beside)
        own = {modality_of(medium, path): path, "id": f"{source['name']}:{path}"}
    yield from captioned(given, own, folder, where, names, side, source)


def captioned(
    given: Mapping[str, Any],
    own: Mapping[str, Any],
    folder: Path,
    where: str,
    names: Names,
    side: str | None,
    source: Mapping[str, Any],
) -> Iterator[dict | Problem]:
    """A record, or what is wrong with it, for each caption of a medium, judged as reader `captions` does.

    Args:
        given: column -> value. own: fields of ours that hold where no column gives them; the medium's path among them.
        names: field of ours -> columns that it is looked for in, under what `columns` of the source says.
        side: the split where no column gives one.
    """
    name, license, asked = source["name"], source.get("license", "unknown"), source.get("columns", {})
    names = {**names, **{key: several(value) for key, value in asked.items()}}
    keys = [key for key in names if key not in (*MEDIA, "caption")]
    fields = {**own, **{key: given[named[0]] for key in keys if (named := named_in(given, names[key]))}}
    if "duration" in fields and ("duration" in asked or NEMO in given):
        fields.setdefault("offset", 0.0)
    if "id" in own and not named_in(given, names["id"]):
        fields["id"] = named_segment(own["id"], segment_of(fields, "audio")[0])
    fields["id"] = str(fields["id"]) if type(fields.get("id")) is int else fields.get("id")
    group, category = fields.pop("group", None), fields.pop("category", None)
    fields |= {"group": category, "split": _known_side(fields["split"]) if "split" in fields else side}
    captions = _captions(given, named_in(given, names["caption"])[: None if "caption" in asked else 1])
    for at, caption in enumerate(captions):
        one = {**fields, "caption": caption, **({"id": f"{fields['id']}:{at}"} if len(captions) > 1 else {})}
        one = {key: value for key, value in one.items() if value is not None}
        found = record(Line(0, one), folder, where, name, license)
        if isinstance(found, dict) and group not in (None, ""):
            found["group"] = f"{name}/{group}"
        yield found


def _captions(given: Mapping[str, Any], names: list[str]) -> list[Any]:
    """The captions of a line: one a column, or the texts of a list; those of several that are empty are left out."""
    values = [given[one] for one in names]
    flat = [text for value in values for text in (value if isinstance(value, list) else [value])]
    return [text for text in flat if text not in (None, "")] or [None if not flat else ""]


def below(path: str, folder: Path, beside: Path) -> str:
    """A path that counts from the table's folder, or an absolute one, relative to the source's folder."""
    plain = PurePosixPath(path.replace("\\", "/"))
    if plain.is_absolute():
        return plain.relative_to(folder).as_posix() if plain.is_relative_to(folder) else path
    return (PurePosixPath(beside.relative_to(folder)) / plain).as_posix()


def modality_of(key: str, path: str) -> str:
    """audio or image, of a medium by the field that names it and, where that says nothing, by its suffix."""
    if key != "medium":
        return key
    return "audio" if PurePosixPath(path).suffix.lower() in AUDIO else "image"


def sides_of(tables: Sequence[Path]) -> list[str | None]:
    """The split of each table by `side_of`; None for all where they only ever say train: that divides nothing, and the
    profile's `split` does.
    """
    sides = [side_of(one) for one in tables]
    return [None] * len(sides) if set(sides) == {"train"} else sides


def side_of(table: Path) -> str | None:
    """The split that a table's folders and name say; None where they say none, or two."""
    words = set(re.split(r"[^a-z]+", table.with_suffix("").as_posix().lower()))
    found = [side for side, names in SIDES.items() if words & set(names)]
    return found[0] if len(found) == 1 else None


def _known_side(split: Any) -> Any:
    """A data set's name of a split as one of ours; what is none is left to be refused."""
    plain = split.strip().lower() if isinstance(split, str) else split
    return next((side for side, names in SIDES.items() if plain in names), split)


def named_in(given: Container[str], names: tuple[str, ...]) -> list[str]:
    """Those of the names that are there."""
    return [name for name in names if name in given]


def several(value: str | list[str]) -> tuple[str, ...]:
    """The columns that `columns` of a source names for a field."""
    return (value,) if isinstance(value, str) else tuple(value)
