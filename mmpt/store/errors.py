"""The errors that a user reads, as one line each, and the exit codes of the commands."""

from __future__ import annotations

import errno
from collections.abc import Sequence

EXIT_GO, EXIT_BROKE, EXIT_USAGE, EXIT_NO_GO, EXIT_CANNOT_DECIDE = 0, 1, 2, 10, 20
# Errors of the system by what they mean to the user (launch/process_setup.py words them).
# EFBIG: a file size limit (ulimit -f) stops a write as a full disk does.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The disk, its network or its driver fails: a bad sector, a server that is gone, a FUSE process that died.
FAILS = (
    *(errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.EUCLEAN, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.EBUSY),
    *(errno.ETXTBSY, errno.EXDEV, errno.ENOLINK, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EBADMSG),
)
TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)
NO_SUCH_PATH = (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
MAY_NOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS)  # a folder or file system that this process cannot write to


class UserError(Exception):
    """Something the user gave is wrong. The command prints ``str(error)`` and exits with 2.

    Args:
        what: what is wrong, in one short clause.
        where: the file, and the path or line in it.
        found: the offending value.
        expected: the rule it breaks.
        fix: what to do about it.
    """

    exit_code = EXIT_USAGE

    def __init__(self, what: str, *, where: object = "", found: object = "", expected: object = "", fix: str = ""):
        self.what, self.where, self.found, self.expected, self.fix = what, where, found, expected, fix
        parts = [f"{where}: {what}" if where != "" else what]
        parts += [f"found {found}"] if found != "" else []
        parts += [f"expected {expected}"] if expected != "" else []
        parts += [fix] if fix else []
        super().__init__("; ".join(str(part) for part in parts))

    def __reduce__(self) -> tuple:
        # Errors cross the process border between a stage and the build; keyword arguments need their own rebuild.
        return (_rebuild, (type(self), self.__dict__, self.args))


class Edited(UserError):
    """A file whose content does not have the digest that was recorded for it."""


def _rebuild(kind: type[UserError], state: dict, args: tuple) -> UserError:
    error = Exception.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class Blocked(Exception):
    """A stage was not run because gates that it needs are not GO.

    Args:
        gates: identifiers of those gates, e.g. ``("S3", "K1")``.
        reasons: one line per gate, in the same order; may be empty.
    """

    def __init__(self, gates: Sequence[str], reasons: Sequence[str] = ()):
        self.gates, self.reasons = tuple(gates), tuple(reasons)
        super().__init__(tuple(gates), tuple(reasons))

    def __str__(self) -> str:
        return f"blocked by {', '.join(self.gates)}" + (": " + "; ".join(self.reasons) if self.reasons else "")
