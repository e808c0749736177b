"""Which files lie below a folder, and their stat: one pass of scandir."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from mmpt.store.errors import UserError

Stamp = tuple[int, int, int, int]  # size, mtime in ns, ctime in ns, inode


def stamp_of(found: os.stat_result) -> Stamp:
    """What tells that a file was touched.

    ctime is in it because an edit that keeps the mtime (``cp -p``, ``touch -d``) changes it all the same.
    """
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def scan(folder: Path | str) -> dict[str, Stamp]:
    """Relative POSIX path -> stamp of every file below ``folder``. Links are followed, those to nothing left out.

    Raises:
        UserError: a link to a folder that it lies in.  FileNotFoundError: no such folder.
    """
    found: dict[str, Stamp] = {}
    folders = [(os.fspath(folder), "")]
    while folders:
        path, prefix = folders.pop()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir():
                        folders.append((entry.path, f"{prefix}{entry.name}/"))
                    elif (stamp := _stamp(entry)) is not None:
                        found[prefix + entry.name] = stamp
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise UserError("a link leads into the folder that holds it", where=folder, found=prefix[:80]) from None
    return found


def _stamp(entry: os.DirEntry[str]) -> Stamp | None:
    try:
        return stamp_of(entry.stat())
    except FileNotFoundError:  # a link to nothing, or a file that went away just now
        return None
