"""A lock that the kernel frees when its owner dies: flock on an open file, never the existence of one."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmpt.store.errors import UserError


@contextmanager
def exclusive(path: Path, holder: str) -> Iterator[None]:
    """Hold ``path`` alone for the body of a ``with``.

    Args:
        holder: what to tell the next one, e.g. the command line; the process id is added.

    Raises:
        UserError: another process holds it; names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another run holds this profile", where=path, found=_holder(path),
                            fix="wait for it, or stop that process") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"holder": holder, "pid": os.getpid()}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        known = json.loads(path.read_text())
        return f"process {known['pid']} ({known['holder']})"
    except (json.JSONDecodeError, KeyError, OSError):
        return "an unnamed process"
