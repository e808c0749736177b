"""Which files lie below a folder, and their stat: one pass of scandir.

A source's folder is somebody's disk. What no record can use is left out: pipes, sockets and devices (to open one may
hang), folders that may not be read, links in a circle, and names that are not UTF-8, which no table can spell.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from mmpt.store.watch import Watch

TELL_EVERY = 10_000  # files between two looks at the clock
MOST_LINKS = 8  # to folders, one behind another
UNREADABLE = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP)
Stamp = tuple[int, int, int, int]  # size, mtime in ns, ctime in ns, inode


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
    """
    found: dict[str, Stamp] = {}
    watch, told = Watch(f"looking at the files of {folder}"), 0
    # path, prefix, where the links on the way lead
    folders: list[tuple[str, str, tuple[str, ...]]] = [(os.fspath(folder), "", (os.path.realpath(folder),))]
    while folders:
        path, prefix, links = folders.pop()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if not (entry.name.isascii() or _is_utf8(entry.name)):
                        continue
                    if _is_folder(entry):
                        if (way := _way(entry, links)) is not None:
                            folders.append((entry.path, f"{prefix}{entry.name}/", way))
                    elif (stamp := _stamp(entry)) is not None:
                        found[prefix + entry.name] = stamp
                        if len(found) - told == TELL_EVERY:
                            told = len(found)
                            watch.step(TELL_EVERY)
        except OSError as error:
            if not prefix or error.errno not in UNREADABLE:
                raise
    return found


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


def _stamp(entry: os.DirEntry[str]) -> Stamp | None:
    try:
        found = entry.stat()
    except OSError:  # a link to nothing or to itself, or a file that went away just now
        return None
    return stamp_of(found) if stat.S_ISREG(found.st_mode) else None
