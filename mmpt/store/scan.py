"""Which files lie below a folder, and their stat: one pass of scandir.

A source's folder is somebody's disk. What no record can use is left out: pipes, sockets and devices (to open one may
hang), folders that may not be read, links in a circle, and names that are not UTF-8, which no table can spell.
"""

from __future__ import annotations

import errno
import hashlib
import marshal
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmpt.store.errors import FAILS, TOO_MANY_OPEN, UserError
from mmpt.store.watch import Watch

TELL_EVERY = 10_000  # files between two looks at the clock
MOST_LINKS = 8  # to folders, one behind another
UNREADABLE = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP)
Stamp = tuple[int, int, int, int]  # size, mtime in ns, ctime in ns, inode
Row = tuple[str, int, int, int, int]  # name, and the stamp


def stamp_of(found: os.stat_result) -> Stamp:
    """What tells that a file was touched.

    ctime is in it because an edit that keeps the mtime (``cp -p``, ``touch -d``) changes it all the same.
    """
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def scan(folder: Path | str) -> dict[str, Stamp]:
    """Relative POSIX path -> stamp of every regular file below ``folder``.

    Links are followed; left out are broken ones, and those to a folder that they lie in.

    Raises:
        FileNotFoundError, PermissionError: ``folder`` itself.
        UserError: a folder below it that is not one of files, as some of /proc.
    """
    return {f"{prefix}{row[0]}": row[1:] for prefix, rows in _folders(folder) for row in rows}


@dataclass(frozen=True)
class Look:
    """How a folder looks from outside.

    Args:
        digest: of its files' names and stamps: equal where nothing was touched.
        youngest: the latest ctime, in ns; 0 of an empty folder.
    """

    digest: str
    youngest: int


def look(folder: Path | str) -> Look:
    """What ``scan`` finds as a digest, folder by folder: 600,000 files without a list of them.

    Raises:
        FileNotFoundError, PermissionError: ``folder`` itself.
    """
    value, youngest = hashlib.sha256(), 0
    for prefix, rows in _folders(folder):
        rows.sort()
        youngest = max(youngest, max((row[3] for row in rows), default=0))
        # Version 2 of marshal writes no references, so equal values give equal bytes.
        value.update(marshal.dumps((prefix, rows), 2))
    return Look(value.hexdigest(), youngest)


def _folders(folder: Path | str) -> Iterator[tuple[str, list[Row]]]:
    """(path relative to ``folder`` with a slash behind it, its files) of each folder, ordered by the names alone."""
    watch, told = Watch(f"looking at the files of {folder}"), 0
    # path, prefix, where the links on the way lead
    folders: list[tuple[str, str, tuple[str, ...]]] = [(os.fspath(folder), "", (os.path.realpath(folder),))]
    while folders:
        path, prefix, links = folders.pop()
        try:
            rows, inner = _entries(path, links)
        except OSError as error:
            if prefix and error.errno in UNREADABLE:
                continue
            if error.errno in (*UNREADABLE, *FAILS, *TOO_MANY_OPEN):
                raise
            raise UserError(
                "this folder cannot be listed",
                where=path,
                found=error.strerror,
                expected="folders of files alone below a source's path",
                fix="name the folder that the media lie in",
            ) from None
        folders += [(os.path.join(path, name), f"{prefix}{name}/", way) for name, way in sorted(inner)]
        told += len(rows)
        if told >= TELL_EVERY:
            watch.step(told)
            told = 0
        yield prefix, rows


def _entries(path: str, links: tuple[str, ...]) -> tuple[list[Row], list[tuple[str, tuple[str, ...]]]]:
    """(files with their stamps, folders with where the links on the way lead) in one folder."""
    rows: list[Row] = []
    inner: list[tuple[str, tuple[str, ...]]] = []
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if not (name.isascii() or _is_utf8(name)):
                continue
            if _is_folder(entry):
                if (way := _way(entry, links)) is not None:
                    inner.append((name, way))
                continue
            try:
                found = entry.stat()
            except OSError:  # a link to nothing or to itself, or a file that went away just now
                continue
            if stat.S_ISREG(found.st_mode):
                rows.append((name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino))
    return rows, inner


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _way(entry: os.DirEntry[str], links: tuple[str, ...]) -> tuple[str, ...] | None:
    """Where the links on the way to a folder lead; None where it is a link that leads back into them."""
    if not entry.is_symlink():
        return links
    target, here = os.path.realpath(entry.path), os.path.realpath(os.path.dirname(entry.path))
    back = target in links or f"{here}/".startswith(target.rstrip("/") + "/")
    return None if back or len(links) > MOST_LINKS else (*links, target)
