"""Where a record's medium lies: a file, a part of one, or a segment of either."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mmpt.codecs.cells import Cell
from mmpt.codecs.media_error import MediaError, said, shown
from mmpt.codecs.members import MediaFile, Member, Segment
from mmpt.store.errors import UserError


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
    whole: Path | Member | Cell = path
    if "at" in media:
        whole = Member(path, media["at"], media["bytes"], media["member"])
    elif "row" in media:
        whole = Cell(path, media["member"], media["row"])
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


def _outside(relative: str) -> MediaError:
    return MediaError(
        "outside",
        "media path leaves the corpus folder",
        where=shown(relative),
        found=shown(relative),
        expected="a relative path below the source's folder",
        fix="move the file there and name it relative to it",
    )
