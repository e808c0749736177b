"""Journals: files of JSON lines that only grow, each line with a digest of itself and that of the line before it.

A line that was edited, taken out, put in or cut off is found by `wrong_lines`. Lines lost at the end are found by
INDEX.sha256 (mmpt.store.index). A row is written as canonical JSON; "digest" is the digest of the row without it.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmpt.store.atomic import atomic_write
from mmpt.store.canonical import canonical_json, digest_json


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row, with the present time, the digest of the line before it and its own; on a new line where the last one
    was cut off.
    """
    before = _content(path)
    past = [row for _, row, _ in _lines(before) if row is not None]
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = {**row, "time": now, "previous": past[-1].get("digest", "") if past else ""}
    gap = b"\n" if _cut_off(before) else b""
    atomic_write(path, before + gap + canonical_json({**line, "digest": digest_json(line)}) + b"\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows, oldest first, edited ones too; a line that is no JSON object is left out. Empty without a file."""
    return [row for _, row, _ in _lines(_content(path)) if row is not None]


def sound_lines(path: Path) -> list[dict[str, Any]]:
    """The rows whose line holds the row's own digest, oldest first."""
    return [row for _, row, sound in _lines(_content(path)) if row is not None and sound]


def wrong_lines(path: Path) -> list[str]:
    """What is wrong with the chain, one text per finding; empty where there is no file."""
    data = _content(path)
    wrong = ["its last line is cut off"] if _cut_off(data) else []
    previous: str | None = ""
    for number, row, sound in _lines(data):
        if row is None or not sound:
            wrong.append(f"line {number} was edited")
            previous = None
            continue
        if previous is not None and row["previous"] != previous:
            wrong.append(f"a line before line {number} was taken out or put in")
        previous = row["digest"]
    return wrong


def is_cut_off(path: Path) -> bool:
    """Whether the last line has no end: the process that wrote it was killed."""
    return _cut_off(_content(path))


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _cut_off(data: bytes) -> bool:
    return bool(data) and not data.endswith(b"\n")


def _lines(data: bytes) -> Iterator[tuple[int, dict[str, Any] | None, bool]]:
    """(number, row, whether the line holds the row's own digest) of each line that has an end; row None: no object."""
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            yield number, None, False
            continue
        body = {key: value for key, value in row.items() if key != "digest"}
        yield number, row, "previous" in row and row.get("digest") == digest_json(body) and canonical_json(row) == line
