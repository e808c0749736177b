"""Files of ten-second YouTube clips, under the names that the usual downloaders give them.

    <id>.wav   Y<id>.wav   <id>_30.wav   <id>_30_40.wav   <id>_30.000_40.000.wav   <id>_30000_40000.wav
    [<id>]-[30-40].wav     and <number>.wav for a data set that numbers its clips

An id has eleven characters, "-" and "_" among them, so a name is read by position and never by prefix.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import soundfile

from mmpt.codecs.media import is_file
from mmpt.corpus.media_folder import MediaFolder
from mmpt.corpus.published import Fault

STEM = re.compile(
    r"\[?Y?(?P<id>[A-Za-z0-9_-]{11})\]?"
    r"(?:[_-]\[?(?P<start>\d+(?:\.\d+)?)(?:[_-](?P<end>\d+(?:\.\d+)?))?\]?)?"
)
SLACK = 1.0  # seconds by which a file may be longer than its clip: encoders pad, and times are rounded


@dataclass(frozen=True)
class ClipFiles:
    """Clip files by YouTube id and by number.

    Args:
        by_id: id -> (start in the file's name or None, path) of each.
        by_number: stem of digits -> paths.
    """

    by_id: dict[str, list[tuple[float | None, str]]]
    by_number: dict[str, list[str]]

    @classmethod
    def of(cls, media: MediaFolder) -> ClipFiles:
        """Read every name."""
        by_id: dict[str, list[tuple[float | None, str]]] = defaultdict(list)
        by_number: dict[str, list[str]] = defaultdict(list)
        for path in media.files:
            stem = PurePosixPath(path).stem
            if stem.isdigit() and len(stem) < 11:
                by_number[stem].append(path)
            elif match := STEM.fullmatch(stem):
                start = match["start"]
                by_id[match["id"]].append((None if start is None else float(start), path))
        return cls(dict(by_id), dict(by_number))

    def find(self, video: str, start: float, number: str | None = None) -> list[str]:
        """Paths that may hold the clip of `video` from second `start`; those of another start are not among
        them.
        """
        named = [path for at, path in self.by_id.get(video, ()) if at is None or _same_start(at, start)]
        return named + (self.by_number.get(number, []) if number else [])


def _same_start(named: float, start: float) -> bool:
    """Whether a number in a file name is that second, or that second in milliseconds."""
    return abs(named - start) < 1 or (named >= 1000 and abs(named / 1000 - start) < 1)


def uncut(folder: Path, found: Sequence[str], seconds: float) -> Fault | None:
    """The fault of a file longer than its clip: it is the whole video, whose beginning is something else."""
    if len(found) != 1 or not is_file(folder / found[0]):
        return None
    try:
        length = soundfile.info(folder / found[0]).duration
    except Exception:  # a decoder may raise anything
        return None  # the manifest opens the file and says what is wrong with it
    if length <= seconds + SLACK:
        return None
    return (
        "uncut",
        "sound is longer than its clip",
        f"{found[0]} of {length:.1f} s",
        f"{seconds:g} s",
        "cut it to the clip's start and end, as the table gives them",
    )
