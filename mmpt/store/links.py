"""The files of one folder in another without their bytes: a reflink, else a hard link, else a copy.

A reflink (btrfs, XFS) is a file of its own. A hard link is the same file under a second name: an edit in place
edits both, and the ctime tells it of both. A copy is what is left between two file systems, or where the files are
another user's (Linux: protected_hardlinks).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

from mmpt.store.scan import scan

FICLONE = 0x40049409  # of Linux' linux/fs.h
NO_REFLINK = (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ETXTBSY)
NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)


def link_folder(source: Path, target: Path) -> int:
    """Make ``target``, which is not there, with every file of ``source``; the number of bytes that had to be copied.

    Raises:
        FileNotFoundError: ``source``, or a file that was in it, is gone.
        OSError: as the file system says (full, read-only).
    """
    copied = 0
    target.mkdir(parents=True)
    for name in scan(source):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        copied += 0 if _reflink(source / name, path) or _hard_link(source / name, path) else _copy(source / name, path)
    return copied


def _reflink(source: Path, target: Path) -> bool:
    with open(source, "rb") as old, open(target, "xb") as new:
        try:
            fcntl.ioctl(new, FICLONE, old.fileno())
        except OSError as error:
            if error.errno not in NO_REFLINK:
                raise
        else:
            return True
    target.unlink()
    return False


def _hard_link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        return False
    return True


def copy_file(source: Path, target: Path) -> None:
    """A copy with the folders above it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _copy(source: Path, target: Path) -> int:
    shutil.copyfile(source, target)
    return target.stat().st_size
