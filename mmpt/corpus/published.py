"""The common part of the readers of published data sets: captions with the place of their medium become records.

A medium that is not there is a problem of its record. A whole part of a data set (a split, a subset) without
a single medium is not: then the folder is laid out otherwise or the archives are still packed, and reading
stops with that.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpt.codecs.media import is_file
from mmpt.corpus.caption_text import has_word, one_line, unencodable, unwritten
from mmpt.corpus.problems import Problem
from mmpt.corpus.tables import short
from mmpt.store.errors import UserError

UNPACK = "unpack them there: 7z x FILE.7z, or unzip (join volumes by zip -FF FILE.zip --out ALL.zip)"
CONVERT = "soundfile does not read that format; convert it: ffmpeg -i FILE.m4a FILE.flac"

Fault = tuple[str, str, str, str, str]  # kind, what, found, expected, fix


@dataclass(frozen=True)
class Entry:
    """One caption of a published data set.

    Args:
        where: "<source>/<file>:<line>" or "<source>/<file>[<index>]".
        part: split or subset that it belongs to, as the data set calls it.
        id: unique in the corpus; None where the line did not get as far.
        medium: what its medium is called, for messages.
        found: paths that may be its medium, relative to the source's folder; exactly one is right.
        origin: recording or picture: what a split may not tear apart, across data sets.
        split: the official side, or None where the data set has none.
        fault: what is wrong with the line itself.
        look: finds what is wrong with its medium; called only for entries that are drawn.
    """

    where: str
    part: str
    id: str | None = None
    modality: str = "audio"
    medium: str = ""
    found: Sequence[str] = ()
    caption: Any = ""
    origin: str = ""
    source: str = ""
    license: str = ""
    split: str | None = None
    fault: Fault | None = None
    look: Callable[[], Fault | None] | None = None


def to_records(
    entries: Iterable[Entry],
    name: str,
    packed: Mapping[str, str],
    limit: int | None = None,
    unread: str = "",
) -> Iterator[tuple[str, dict | Problem]]:
    """(where, record or problem) of each entry, in order.

    Args:
        packed: part -> archives that may hold its media, for the message.
        limit: how many entries to draw, by the hash of their id: the same ones in every run, every part in
            its share.
        unread: media in a format that soundfile does not decode, for the message.

    Raises:
        UserError: a part of which no medium is there.
    """
    drawn = draw([_spelled(entry) for entry in entries], limit)
    _refuse_packed(drawn, name, packed, unread)
    for entry in drawn:
        yield entry.where, _record(entry, name)


def _spelled(entry: Entry) -> Entry:
    """The entry, as a fault where it holds half a surrogate pair: no file that the build writes could hold it."""
    texts = [one for one in (entry.id, entry.medium, entry.caption, entry.origin) if isinstance(one, str)]
    half = next(filter(None, map(unencodable, texts)), "")
    if not half:
        return entry
    fault = ("bad_line", "half of a surrogate pair", half, "Unicode text", "correct or remove it")
    return Entry(entry.where, entry.part, fault=fault)


def draw(entries: Sequence[Entry], limit: int | None) -> list[Entry]:
    """The `limit` entries with the smallest hash of their id, in their old order; faulty lines always."""
    if limit is None or len(entries) <= limit:
        return list(entries)
    ranked = sorted((hashlib.sha256(entry.id.encode()).digest(), at) for at, entry in enumerate(entries) if entry.id)
    kept = {at for _, at in ranked[:limit]}
    return [entry for at, entry in enumerate(entries) if at in kept or not entry.id]


def _refuse_packed(entries: Sequence[Entry], name: str, packed: Mapping[str, str], unread: str) -> None:
    parts: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if not entry.fault:
            parts[entry.part].append(entry)
    for part, inside in parts.items():
        if any(entry.found for entry in inside):
            continue
        archives = packed.get(part, "")
        raise UserError(
            f"no medium of part {part!r} is below the source's folder" + ("; it is still packed" if archives else ""),
            where=f"corpus source {name}",
            found=f"archives {archives}"
            if archives
            else f"none of {len(inside)}, e.g. no {short(inside[0].medium)}" + (f"; {unread}" if unread else ""),
            expected="the unpacked media below path",
            fix=UNPACK if archives else CONVERT if unread else "put them there, or leave that part out",
        )


def _record(entry: Entry, name: str) -> dict | Problem:
    def bad(kind: str, what: str, found: str, expected: str, fix: str) -> Problem:
        return Problem(kind, name, entry.where, entry.id, what, found, expected, fix)

    if fault := entry.fault or (entry.look and entry.look()):
        return bad(*fault)
    if not isinstance(entry.caption, str):
        shown = json.dumps(entry.caption)[:80]
        return bad("bad_line", "caption is not text", shown, "a string", "correct or remove it")
    caption = one_line(entry.caption)
    if not has_word(caption):
        expected = "at least one visible word, and no placeholder such as nan"
        return bad("empty_caption", "empty caption", repr(short(caption)), expected, "remove the record")
    if control := unwritten(caption):
        return bad("bad_line", "a control character in the caption", control, "text", "correct or remove it")
    if not entry.found:
        return bad(
            "missing",
            f"{entry.modality} file does not exist",
            short(entry.medium),
            f"a file below the folder of {name}",
            "restore it or remove the record",
        )
    if len(entry.found) > 1:
        return bad(
            "ambiguous",
            f"more than one {entry.modality} file fits",
            " and ".join(list(entry.found)[:3]),
            f"one file for {entry.medium}",
            "keep one, or name its folder as `media:` of the source",
        )
    return {
        "id": entry.id,
        "modality": entry.modality,
        "media": {"root": name, "path": entry.found[0]},
        "caption": caption,
        "source": entry.source or name,
        "group": entry.origin,
        "category": None,
        "origin": entry.origin,
        "license": entry.license,
        "attributes": None,
        "mentioned": None,
        "split_hint": entry.split,
    }


def find_file(folder: Path, file: str, below: str, name: str, needed: bool = True) -> Path | None:
    """The one file of that name below `folder`/`below`; None where it is not needed and not there.

    Raises:
        UserError: none, or several.
    """
    there = (folder / below).rglob(glob.escape(file)) if (folder / below).is_dir() else ()
    found = sorted(path for path in there if is_file(path))
    if len(found) > 1:
        raise UserError(
            f"two files are called {file}",
            where=f"corpus source {name}",
            found=" and ".join(path.relative_to(folder).as_posix() for path in found[:3]),
            expected="one",
            fix="name the folder of the right one as `metadata:` of the source",
        )
    if not found and needed:
        raise UserError(
            f"no {file} below the source's folder",
            where=f"corpus source {name}",
            found=str(folder / below),
            expected=file,
            fix="put the published file there, or correct path",
        )
    return found[0] if found else None


def need_file(folder: Path, file: str, below: str, name: str) -> Path:
    """The one file of that name below `folder`/`below`. Raises UserError as `find_file`."""
    found = find_file(folder, file, below, name)
    assert found is not None  # it raises where there is none
    return found


def read_json_file(file: Path, where: str) -> Any:
    """The content of a published JSON file.

    Raises:
        UserError: not JSON.
    """
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(
            "not JSON",
            where=where,
            found=str(error)[:80],
            expected="the published file",
            fix="download it again",
        ) from error
