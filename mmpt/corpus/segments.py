"""Segments of long recordings: `offset` and `duration` of a record, in seconds.

A record without an offset is a whole medium, whatever its field `duration` says: many data sets tell a length there.
Whether the segment lies in its recording is known when that is opened (stage manifest).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

from mmpt.codecs.media import Cell, Member
from mmpt.corpus.tables import short

LONGEST = 1e9  # seconds, 31 years: no place in a sound

Fault = tuple[str, str, str, str, str]  # kind, what, found, expected, fix


def segment_of(fields: Mapping[str, Any], modality: str) -> tuple[dict[str, float], Fault | None]:
    """({"offset", "duration"} for the record's medium, {} for a whole one; what is wrong with them).

    Args:
        fields: of a record; numbers, or texts that are numbers (a CSV has nothing else).
    """
    given = fields.get("offset")
    if given in (None, ""):
        return {}, None
    offset, duration = _number(given), fields.get("duration")
    if offset is None or offset < 0:
        return {}, _wrong("offset is not a place in the recording", "offset", given, "seconds from its beginning")
    seconds = None if duration in (None, "") else _number(duration)
    if (duration not in (None, "") and not seconds) or (seconds or 1) < 0:
        return {}, _wrong("duration is not a length", "duration", duration, "seconds, more than 0")
    if not offset and seconds is None:
        return {}, None
    if modality != "audio":
        return {}, _wrong("a segment of a picture", "offset", given, "a sound")
    return {"offset": offset, **({} if seconds is None else {"duration": seconds})}, None


def named_segment(name: str, segment: Mapping[str, float]) -> str:
    """A name for a segment of what `name` names: two segments have two."""
    end = f"+{segment['duration']:.10g}" if "duration" in segment else ""
    return f"{name}@{segment['offset']:.10g}{end}" if segment else name


def share_origin(record: dict[str, Any], recording: Member | Cell, own: str) -> None:
    """Name the origin of a segment by the bytes of its recording, which other rows or samples may bring again.

    Args:
        own: origin that the record has unless a column gave it another one, which stays.

    Raises:
        MediaError: the recording cannot be read.
    """
    if "offset" not in record["media"] or record["origin"] != own:
        return
    origin = f"{record['media']['root']}/{hashlib.sha256(recording.read_bytes()).hexdigest()[:32]}"
    record["group"] = origin if record["group"] == own else record["group"]
    record["origin"] = origin


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < LONGEST else None


def _wrong(what: str, key: str, value: Any, expected: str) -> Fault:
    return "bad_line", what, short(f"{key} {value}"), expected, f"correct {key}"
