"""Reader `parquet`: data sets of Hugging Face, or any other, in parquet or arrow files; media are read in place.

    data/train-00000-of-00003.parquet    as pushed to the hub, with the split in the file's name
    train/data-00000-of-00001.arrow      as `save_to_disk` writes it
    audio: {bytes, path}                 features Audio and Image; also a column of bytes, or of paths to media files

A record names file, column and row, of an arrow file also the medium's place in it. soundfile and Pillow decode the
values. `columns` maps names as for reader `table`; integers are taken as text, those of a ClassLabel by its names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from mmpt.codecs.cells import open_parquet
from mmpt.codecs.media import MediaError, media_path
from mmpt.corpus.parquet_rows import Layout, Row, arrow_rows, arrow_schema, parquet_rows
from mmpt.corpus.problems import Problem
from mmpt.corpus.segments import share_origin
from mmpt.corpus.table import MEDIA, NAMES, below, captioned, modality_of, named_in, several, sides_of, tables_below
from mmpt.corpus.tables import short
from mmpt.store.errors import UserError

CACHED = "cache-"  # files that the library keeps beside a data set: what somebody computed from it
TEXTS = ("id", "split", "license", "source", "origin", "category", "group")
FEATURES = {"Audio": "audio", "Image": "image"}


def read(folder: Path, source: Mapping[str, Any]) -> Iterator[tuple[str, dict | Problem]]:
    """(where, record or problem), file by file; of each the first `limit` rows.

    Raises:
        UserError: no pyarrow, no file, one that cannot be read in place, or one without a medium's or a caption's
            column.
    """
    paths = tables_below(folder, source, "parquet", "parquet or arrow file", (".", CACHED))
    for path, side in zip(paths, sides_of(paths), strict=True):
        file = folder / path
        where = f"{source['name']}/{path.as_posix()}"
        is_arrow = file.suffix == ".arrow"
        schema = arrow_schema(file, where) if is_arrow else open_parquet(file, where).schema_arrow
        key, layout = _layout(schema, where, source)
        labels, texts = _labels(schema), _texts(schema, source)
        rows = (arrow_rows if is_arrow else parquet_rows)(file, where, layout)
        for row in islice(rows, source.get("limit")):
            at = f"{where}:{row.number}"
            given = {
                name: _text(value, labels.get(name)) if name in texts else value for name, value in row.given.items()
            }
            for item in _records(row, given, key, folder, path, at, side, source):
                yield at, item


def _layout(schema: Any, where: str, source: Mapping[str, Any]) -> tuple[str, Layout]:
    """(audio, image or medium; the columns that are read).

    Raises:
        UserError: no column of media or captions, several of media, a column named twice.
    """
    asked, names = source.get("columns", {}), list(schema.names)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError("column named twice", where=where, found=short(", ".join(twice)), expected="each column once")
    wanted = {**NAMES, **{key: several(value) for key, value in asked.items()}}
    media = _media(schema, wanted, asked)
    lacking = [] if media else ["audio or image"]
    lacking += [] if named_in(names, wanted["caption"]) else ["caption"]
    if lacking or len(media) > 1:
        raise UserError(
            f"no column for {' and '.join(lacking)}" if lacking else "more than one column of media",
            where=where,
            found=short(", ".join(names if lacking else media)) or "nothing",
            expected="a medium (bytes, a path, or both) and a caption",
            fix="name it in the source: columns: {caption: .., audio: ..}",
        )
    ((column, (key, leaf, path)),) = media.items()
    keys = [one for one in wanted if one not in MEDIA]
    fields = {name for one in keys for name in wanted[one]} & set(names) - {column}
    return key, Layout(column, leaf, path, tuple(name for name in names if name in fields))


def _media(
    schema: Any, wanted: Mapping[str, tuple[str, ...]], asked: Mapping[str, Any]
) -> dict[str, tuple[str, str, str]]:
    """Column -> (audio, image or medium; column of the bytes; column of the path), of those that can hold media."""
    keys = [key for key in MEDIA if key in asked] or list(MEDIA)
    found = {name: key for key in keys for name in wanted[key]}
    if not any(key in asked for key in MEDIA):
        found |= {
            name: FEATURES[feature["_type"]]
            for name, feature in _features(schema).items()
            if isinstance(feature, dict) and feature.get("_type") in FEATURES
        }
    return {
        name: (found[name], *held)
        for name in schema.names
        if name in found and (held := _held(name, schema.field(name).type))
    }


def _held(name: str, kind: Any) -> tuple[str, str] | None:
    """(column of the bytes, column of the path) of a column that may hold media; None if it cannot."""
    inner = {kind.field(at).name: str(kind.field(at).type) for at in range(kind.num_fields)}
    if str(kind).startswith("struct") and inner.get("bytes") in ("binary", "large_binary"):
        return f"{name}.bytes", f"{name}.path" if inner.get("path") in ("string", "large_string") else ""
    if str(kind) in ("binary", "large_binary"):
        return name, ""
    return ("", name) if str(kind) in ("string", "large_string") else None


def _features(schema: Any) -> dict[str, Any]:
    """Column -> what the library says of it; {} where it wrote nothing."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _labels(schema: Any) -> dict[str, list[str]]:
    """Column -> the names of its classes."""
    features = {name: one for name, one in _features(schema).items() if isinstance(one, dict)}
    named = {name: one.get("names") for name, one in features.items() if one.get("_type") == "ClassLabel"}
    return {name: names for name, names in named.items() if isinstance(names, list)}


def _texts(schema: Any, source: Mapping[str, Any]) -> set[str]:
    """Columns of which integers are taken as text."""
    wanted = {**NAMES, **{key: several(value) for key, value in source.get("columns", {}).items()}}
    return {name for key in TEXTS for name in wanted[key]}


def _text(value: Any, labels: list[str] | None) -> Any:
    if type(value) is not int:
        return value
    return str(labels[value]) if labels and 0 <= value < len(labels) else str(value)


def _records(
    row: Row,
    given: Mapping[str, Any],
    key: str,
    folder: Path,
    path: Path,
    where: str,
    side: str | None,
    source: Mapping[str, Any],
) -> Iterator[dict | Problem]:
    name, file = source["name"], path.as_posix()
    if row.wrong:
        yield Problem("bad_line", name, where, None, *row.wrong, "fetch the file again, or leave the row out")
        return
    if row.place is not None:
        own = {
            modality_of(key, str(row.path)): file,
            "id": f"{name}:{file}:{row.number}",
            "origin": f"{name}/{file}/{row.number}",
        }
    elif isinstance(row.path, str) and row.path.strip():
        medium = below(row.path, folder, folder / path.parent)
        own = {modality_of(key, medium): medium, "id": f"{name}:{medium}"}
    else:
        fix = "restore it or remove the row"
        yield Problem("missing", name, where, None, "no medium in a row", "null", "its bytes, or a path", fix)
        return
    for item in captioned(given, own, folder, where, NAMES, side, source):
        if isinstance(item, dict) and row.place is not None:
            item["media"] |= row.place
            if "offset" in item["media"]:
                item = _of_recording(item, folder, where, own["origin"])
        yield item


def _of_recording(item: dict, folder: Path, where: str, own: str) -> dict | Problem:
    """The record of a segment with the origin of its recording."""
    media = {key: value for key, value in item["media"].items() if key not in ("offset", "duration")}
    recording: Any = media_path({**item, "media": media}, {media["root"]: folder})
    try:
        share_origin(item, recording, own)
    except MediaError as error:
        return Problem(
            error.kind, media["root"], where, item["id"], error.what, str(error.found), str(error.expected), error.fix
        )
    return item
