"""Writing that is whole or absent: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def fsync_folder(folder: Path) -> None:
    """Make renames and new names inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write(path: Path | str, data: bytes, *, durable: bool = True) -> None:
    """Replace ``path`` by ``data`` in one step; parents are made. A reader sees the old bytes or the new ones.

    Args:
        durable: also wait until the bytes are on the disk.

    Raises:
        OSError: as the file system says (full, read-only); the old file is then untouched and no temporary stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync_folder(path.parent)


def fsync_tree(folder: Path) -> None:
    """Make every file and folder below ``folder`` durable, ``folder`` itself included."""
    for root, _, files in os.walk(folder):
        for name in files:
            descriptor = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        fsync_folder(Path(root))


def publish_folder(staging: Path, final: Path) -> None:
    """Move a finished ``staging`` folder to ``final`` (same file system), durable; what was at ``final`` goes away.

    A crash between the two renames leaves ``final`` absent, never half: the receipt, written later, is what counts.
    """
    fsync_tree(staging)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        doomed = staging.with_name(f"{staging.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(final, doomed)
        os.rename(staging, final)
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        os.rename(staging, final)
    fsync_folder(final.parent)
