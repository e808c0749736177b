"""Atomic writes, whole or not at all: temporary file, fsync, rename, fsync of the folder.

File systems differ. CIFS and some FUSE systems cannot fsync a folder, NFS, CIFS and overlayfs cannot exchange two
names, and overlayfs cannot rename a folder of a lower layer (an image that has artifacts in it). Each call says what it
does then.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MANY_FILES = 64
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY)
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux' renameat2


def fsync_folder(folder: Path) -> None:
    """Make renames and new names inside ``folder`` durable, where its file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync(descriptor: int) -> None:
    """Wait until a file or folder is on the disk; a file system that has no such call is left to its own order."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


@contextlib.contextmanager
def atomic_stream(path: Path | str, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A stream whose bytes replace ``path`` in one step when the block ends; parents are made.

    A reader sees the old bytes or the new ones. A block that raises leaves the old file untouched and no temporary.

    Args:
        durable: also wait until the bytes are on the disk.

    Raises:
        OSError: as the file system says (full, read-only).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            if durable:
                fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync_folder(path.parent)


def atomic_write(path: Path | str, data: bytes, *, durable: bool = True) -> None:
    """Replace ``path`` by ``data``, as ``atomic_stream`` does."""
    with atomic_stream(path, durable=durable) as stream:
        stream.write(data)


def fsync_tree(folder: Path) -> None:
    """Make every file and folder below ``folder`` durable, ``folder`` itself included.

    Many files go to the disk at once where the system can do that (Linux): 10,000 single waits take minutes.
    """
    walked = list(os.walk(folder))
    if sum(len(files) for _, _, files in walked) > MANY_FILES and (sync := getattr(_libc(), "syncfs", None)):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            if sync(descriptor) == 0:
                return
            if (code := ctypes.get_errno()) not in UNSUPPORTED:
                raise OSError(code, os.strerror(code), str(folder))
        finally:
            os.close(descriptor)
    for root, _, files in walked:
        for name in files:
            descriptor = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                fsync(descriptor)
            finally:
                os.close(descriptor)
        fsync_folder(Path(root))


def publish_folder(staging: Path, final: Path) -> None:
    """Move a finished ``staging`` folder to ``final`` (same file system), durable; what was at ``final`` goes away.

    On Linux the two change places in one step, so that there is always one or the other. Where the system cannot do
    that, a crash between two renames leaves ``final`` absent, never half, and both folders in staging. Where even the
    old folder cannot be renamed (overlayfs: EXDEV), it is deleted first, and a crash leaves the new one in staging,
    complete: the next run adopts it.
    """
    fsync_tree(staging)
    final.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(final):
        os.rename(staging, final)
        fsync_folder(final.parent)
        return
    doomed = staging.with_name(f"{staging.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    if exchange(staging, final):
        doomed = staging
    else:
        _put_away(final, doomed)
        os.rename(staging, final)
    fsync_folder(final.parent)
    shutil.rmtree(doomed, ignore_errors=True)


def _put_away(final: Path, doomed: Path) -> None:
    try:
        os.rename(final, doomed)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.rmtree(final)


def exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where the system or its file system cannot.

    Raises:
        OSError: one of them is not there, or may not be moved.
    """
    rename = getattr(_libc(), "renameat2", None)
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    # EPERM: a container's seccomp filter that does not know the call. A plain rename fails where this one should.
    if code in (*UNSUPPORTED, errno.EXDEV, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
