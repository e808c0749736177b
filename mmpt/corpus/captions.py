"""Reader `captions`: a folder with media files and captions.jsonl or captions.csv.

One record per line: `id`, `caption` and either `image` or `audio` (a path below the folder). Optional: `source`,
`group` (a category), `origin` (the recording or picture it comes from), `license`, `split` (train, val, test), and of
a segment of a long recording `offset` and `duration` in seconds.
"""

from __future__ import annotations

import codecs
import difflib
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from mmpt.codecs.media import MediaError, inside, is_file
from mmpt.corpus.caption_text import has_word, one_line, unencodable, unwritten
from mmpt.corpus.problems import Problem
from mmpt.corpus.segments import segment_of
from mmpt.corpus.tables import LONGEST_LINE, Line, csv_header, csv_lines, separator_hint, short, text_file
from mmpt.store.errors import UserError
from mmpt.store.tasks import MODALITIES, SPLITS

FILES = ("captions.jsonl", "captions.csv")
NEEDED = ("id", "caption")
OPTIONAL = ("source", "group", "origin", "license", "split")


def read(
    folder: Path, name: str, license: str = "unknown", limit: int | None = None
) -> Iterator[tuple[str, dict | Problem]]:
    """("<source>/<file>:<line>", record or problem) of each line, in the order of the file.

    Media must exist; they are not opened.

    Args:
        folder: of the source.
        name: of the source; the root of its media paths.
        license: of records that state none.
        limit: largest number of lines that are read; None: all.

    Raises:
        UserError: the folder is missing, or has no captions file, or two.
    """
    file = _file(folder, name)
    lines = jsonl_lines(file) if file.suffix == ".jsonl" else _csv(file, f"{name}/{file.name}")
    for count, line in enumerate(lines):
        if limit is not None and count >= limit:
            return
        where = f"{name}/{file.name}:{line.number}"
        yield where, record(line, folder, where, name, license)


def _file(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise UserError(
            "the source's folder does not exist",
            where=f"corpus source {name}",
            found=str(folder),
            expected="a folder with " + " or ".join(FILES),
        )
    there = [folder / f for f in FILES if (folder / f).is_file()]
    if len(there) != 1:
        raise UserError(
            "the source's folder has no captions file" if not there else "the source's folder has two captions files",
            where=str(folder),
            found=", ".join(f.name for f in there) or "neither",
            expected=" or ".join(FILES),
            fix="keep one of them" if there else "write one record per line: id, caption, and image or audio",
        )
    return there[0]


def jsonl_lines(file: Path) -> Iterator[Line]:
    """Every line that is not empty: its JSON object without fields that are null, or its fault."""
    text_file(file, file.name).close()  # refuses a file that is compressed or in UTF-16
    with file.open("rb") as stream:
        for number, raw in enumerate(_raw_lines(stream), 1):
            raw = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            if not raw.strip():
                continue
            fields, problem = _parsed(raw)
            yield Line(number, None if problem else fields, problem)


def _raw_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines that end with a line feed. Of a line longer than any record only the first part is kept."""
    while line := stream.readline(LONGEST_LINE):
        rest = line
        while len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
            rest = stream.readline(LONGEST_LINE)
        yield line


def _parsed(raw: bytes) -> tuple[Any, tuple[str, str, str] | None]:
    """(the line's object, None) or (anything, its fault)."""
    if len(raw) == LONGEST_LINE and not raw.endswith(b"\n"):
        return None, ("line is too long", f"more than {LONGEST_LINE} bytes", "one JSON object per line")
    try:
        fields = json.loads(raw, object_pairs_hook=_once)
    except _Twice as error:
        return None, ("field given twice", short(str(error)), "each field once")
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        return None, ("not JSON", short(str(error)), "one JSON object per line")
    if not isinstance(fields, dict):
        return None, ("not a JSON object", type(fields).__name__, "one JSON object per line")
    fields = {name: value for name, value in fields.items() if value is not None}  # as pandas writes an empty cell
    if b"\\u" in raw and (half := unencodable(json.dumps(fields, ensure_ascii=False))):
        return None, ("half of a surrogate pair", half, "Unicode text")
    return fields, None


class _Twice(ValueError):
    """A field that occurs twice in a line: json would keep the last one without a word."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(", ".join(json.dumps(name) for name in fields if names.count(name) > 1))
    return fields


def _csv(file: Path, where: str) -> Iterator[Line]:
    header = csv_header(file, where)
    missing = [c for c in NEEDED if c not in header] + ([] if set(MODALITIES) & set(header) else ["image or audio"])
    if missing:
        raise UserError(
            f"missing column: {', '.join(missing)}",
            where=f"{where}:1",
            found=short(", ".join(header)) or "nothing",
            expected="a header with id, caption, and image or audio",
            fix=separator_hint(header),
        )
    yield from csv_lines(file, where, keep=NEEDED)


@functools.lru_cache(maxsize=4096)
def _misspelt(fields: tuple[str, ...]) -> tuple[str, str] | None:
    """(field, its likely meaning): an unknown field that is nearly a known one which this record lacks.

    Other unknown fields are the data set's own and stay unread. Unread, `spilt: test` would put a test record into
    training.
    """
    media = () if set(MODALITIES) & set(fields) else MODALITIES
    known = (*NEEDED, *media, *OPTIONAL, "offset")
    lacking = [one for one in known if one not in fields]
    for field in fields:
        if field in (*known, *MODALITIES) or "_" in field:
            continue
        if close := difflib.get_close_matches(field.strip().lower(), lacking, n=1, cutoff=0.8):
            return field, close[0]
    return None


def record(line: Line, folder: Path, where: str, name: str, license: str) -> dict | Problem:
    """The record of a line, or its problem; the medium must exist and is not opened."""
    fields = line.fields or {}
    given = fields.get("id")

    def bad(kind: str, what: str, found: str, expected: str, fix: str) -> Problem:
        return Problem(
            kind, name, where, given if isinstance(given, str) and given else None, what, found, expected, fix
        )

    if line.problem is not None:
        return bad("bad_line", *line.problem, fix="correct the line")
    if wrong := _malformed(fields):
        return bad(*wrong)
    modality = "audio" if "audio" in fields else "image"
    segment, fault = segment_of(fields, modality)
    if fault:
        return bad(*fault)
    try:
        path = inside(folder, fields[modality])
    except MediaError as error:
        return bad(error.kind, error.what, str(error.found), str(error.expected), error.fix)
    if not is_file(path):
        return bad(
            "missing",
            f"{modality} file does not exist",
            short(fields[modality]),
            f"a file below the folder of {name}",
            "restore it or remove the record",
        )
    return _plain(fields, modality, segment, name, license)


def _malformed(fields: Mapping[str, Any]) -> tuple[str, str, str, str, str] | None:
    """(kind, what, found, expected, fix) of the first fault in a line's fields; None: there is none."""
    wrong = [k for k in (*NEEDED, *MODALITIES, *OPTIONAL) if k in fields and not isinstance(fields[k], str)]
    if wrong:
        return (
            "bad_line",
            f"{wrong[0]} is not text",
            short(json.dumps(fields[wrong[0]])),
            "a string",
            "quote it",
        )
    if misspelt := _misspelt(tuple(fields)):
        return ("bad_line", "unknown field", short(misspelt[0]), f"{misspelt[1]}, or another name", "correct it")
    absent = [k for k in NEEDED if k not in fields] + (
        [] if any(k in fields for k in MODALITIES) else ["image or audio"]
    )
    if absent:
        return (
            "missing_column",
            f"missing {', '.join(absent)}",
            short(", ".join(fields)) or "nothing",
            "id, caption, and image or audio",
            "add it, or let reader `table` read the file, which takes names of its own",
        )
    if not fields["id"].strip():
        return ("bad_line", "empty id", "''", "an id of its own", "give the record an id")
    if all(k in fields for k in MODALITIES):
        return (
            "bad_line",
            "both image and audio",
            "both",
            "one medium per record",
            "write two records with two ids",
        )
    if fields.get("split", "train") not in SPLITS:
        return ("bad_line", "unknown split", short(fields["split"]), " or ".join(SPLITS), "correct it or leave it out")
    if not has_word(fields["caption"]):
        return (
            "empty_caption",
            "empty caption",
            repr(short(fields["caption"])),
            "at least one visible word, and no placeholder such as nan",
            "write a caption or remove the record",
        )
    if control := unwritten(one_line(fields["caption"])):
        return ("bad_line", "a control character in the caption", control, "text", "correct or remove it")
    return None


def _plain(
    fields: Mapping[str, Any], modality: str, segment: Mapping[str, float], name: str, license: str
) -> dict[str, Any]:
    """The record. Records of one file must stay on one side of the split: the file is their origin and group."""
    path = PurePosixPath(fields[modality].replace("\\", "/")).as_posix()
    origin = fields.get("origin") or f"{name}/{path}"
    return {
        "id": fields["id"],
        "modality": modality,
        "media": {"root": name, "path": path, **segment},
        "caption": one_line(fields["caption"]),
        "source": fields.get("source") or name,
        "group": origin,
        "category": fields.get("group"),
        "origin": origin,
        "license": fields.get("license") or license,
        "attributes": None,
        "mentioned": None,
        "split_hint": fields.get("split"),
    }
