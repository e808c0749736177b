"""A lock that the kernel frees when its owner dies: flock on an open file, never the existence of one."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmpt.store.errors import MAY_NOT_WRITE, UserError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
PATIENCE = 60.0  # seconds that ``in_turn`` waits at most


@contextmanager
def exclusive(path: Path, holder: str) -> Iterator[None]:
    """Hold ``path`` alone for the body of a ``with``.

    Args:
        holder: what to tell the next one, e.g. the command line; the process id is added.

    Raises:
        UserError: another process holds it, and which; or the folder may not be written.
    """
    descriptor = _open(path)
    try:
        try:
            _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
        except BlockingIOError:
            raise UserError(
                "another run holds this profile",
                where=path,
                found=_holder(path),
                fix="wait for it, or stop that process",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"holder": holder, "pid": os.getpid()}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder(path: Path) -> str:
    """Who holds ``path`` alone now, as the error of ``exclusive`` names it; empty where nobody does. Writes nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""  # never held, or not to be read
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(path)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    finally:
        os.close(descriptor)
    return ""


def hold(path: Path, seconds: float) -> int:
    """Take ``path`` alone, waiting for its holder, and keep it until this process ends; the open descriptor.

    Raises:
        UserError: it was not free within ``seconds``.
    """
    return _hold(path, seconds, fcntl.LOCK_EX)


def share(path: Path, seconds: float) -> int:
    """As ``hold``, beside others that share it; an exclusive holder waits for all of them."""
    return _hold(path, seconds, fcntl.LOCK_SH)


def _hold(path: Path, seconds: float, how: int) -> int:
    descriptor, end = _open(path), time.monotonic() + seconds
    while True:
        try:
            _flock(descriptor, how | fcntl.LOCK_NB, path)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > end:
                os.close(descriptor)
                raise UserError(
                    "a process of an earlier run still works there", where=path, fix="end it, then run doit again"
                ) from None
            time.sleep(0.02)


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Hold ``path`` alone for the body of a ``with``, after its present holder; for moments."""
    descriptor = hold(path, PATIENCE)
    try:
        yield
    finally:
        os.close(descriptor)


def _flock(descriptor: int, how: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise UserError(
            "the file system has no file locks",
            where=path,
            found=error.strerror,
            expected="flock, which tells a second run of the first",
            fix="mount it with locks (Lustre: -o flock; NFS: lockd), or work in a clone on a local disk",
        ) from None


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno not in MAY_NOT_WRITE:
            raise
        raise UserError(
            "may not be written",
            where=error.filename,
            found=error.strerror,
            fix="plan, why, gates, verify, history and list only read",
        ) from None


def _holder(path: Path) -> str:
    try:
        known = json.loads(path.read_text())
        return f"process {known['pid']} ({known['holder']})"
    except (json.JSONDecodeError, KeyError, OSError):
        return "an unnamed process"
