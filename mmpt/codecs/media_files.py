"""Where a record's medium lies, and what is said of a file that cannot be used."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mmpt.codecs.members import MediaFile, Member, Segment
from mmpt.store.errors import UserError


class MediaError(UserError):
    """A medium that cannot be used. `kind`: missing, unreadable, empty, outside, or bad_line (no such segment)."""

    def __init__(self, kind: str, what: str, *, where: str, found: str = "", expected: str = "", fix: str = ""):
        super().__init__(what, where=where, found=found, expected=expected, fix=fix)
        self.kind = kind


def media_path(record: Mapping, roots: Mapping[str, Path]) -> MediaFile:
    """The file of a record, or the part of one that its medium is.

    `roots` maps "corpus" and source names to folders; a path may not leave its root.
    """
    media = record["media"]
    if media["root"] not in roots:
        raise UserError(
            f"record {record['id']} names an unknown media root",
            found=media["root"],
            expected=" ".join(sorted(roots)),
        )
    path = inside(Path(roots[media["root"]]), media["path"])
    whole = Member(path, media["at"], media["bytes"], media["member"]) if "member" in media else path
    return Segment(whole, media["offset"], media.get("duration")) if "offset" in media else whole


def inside(root: Path, relative: str) -> Path:
    """`root`/`relative`, refused when it is absolute, climbs out, or is a link to somewhere else.

    Raises:
        MediaError: outside; or missing, where the file system has no file of such a name (a NUL, half a surrogate
            pair, a name too long, links in a circle).
    """
    parts = PurePosixPath(relative.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise _outside(relative)
    path = root / parts
    try:
        within = path.resolve().is_relative_to(root.resolve())
        path.stat()
    except FileNotFoundError:
        pass  # opening it reports the error
    except (ValueError, OSError, RuntimeError) as error:
        raise MediaError(
            "missing",
            "no file can be read under this name",
            where=shown(relative),
            found=said(error, path),
            expected="the name of a file that may be read",
            fix="correct it",
        ) from None
    if not within:
        raise _outside(relative)
    return path


def is_file(path: MediaFile) -> bool:
    """Whether a regular file is there. False for whatever the file system refuses to look up, too."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def readable(path: MediaFile) -> Any:
    """What a library opens: the path of a file, a stream over a part of one."""
    whole = path.whole if isinstance(path, Segment) else path
    return whole if isinstance(whole, Path) else whole.open()


def existing(path: MediaFile) -> MediaFile:
    """`path`, if a file with content is there.

    Raises:
        MediaError: missing, empty.
    """
    if not is_file(path):
        raise MediaError(
            "missing",
            "file does not exist",
            where=shown(path.name),
            found="no such file",
            expected="a file",
            fix="restore it or drop the record",
        )
    if path.stat().st_size == 0:
        raise MediaError(
            "empty",
            "file is empty",
            where=path.name,
            found="0 bytes",
            expected="a picture or sound",
            fix="restore it or drop the record",
        )
    return path


def said(error: BaseException, path: MediaFile) -> str:
    """The first line of a library's message, at most 120 characters, without this machine's folders."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).replace(str(path.parent) + "/", "").strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return shown(text) if text != repr(text)[1:-1] else text[:120]


def shown(text: str) -> str:
    """A text as a message may show it: at most 120 characters, control characters escaped."""
    return repr(text if len(text) <= 120 else text[:117] + "...")


def _outside(relative: str) -> MediaError:
    return MediaError(
        "outside",
        "media path leaves the corpus folder",
        where=shown(relative),
        found=shown(relative),
        expected="a relative path below the source's folder",
        fix="move the file there and name it relative to it",
    )
