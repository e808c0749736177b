"""The error for a medium that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from mmpt.store.errors import UserError


class MediaError(UserError):
    """A medium that cannot be used. `kind`: missing, unreadable, empty, outside, or bad_line (no such segment)."""

    def __init__(self, kind: str, what: str, *, where: str, found: str = "", expected: str = "", fix: str = ""):
        super().__init__(what, where=where, found=found, expected=expected, fix=fix)
        self.kind = kind


class Beside(Protocol):
    """What lies in a folder."""

    @property
    def parent(self) -> Path: ...


def said(error: BaseException, path: Beside) -> str:
    """The first line of a library's message, at most 120 characters, without this machine's folders."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).replace(str(path.parent) + "/", "").strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return shown(text) if text != repr(text)[1:-1] else text[:120]


def shown(text: str) -> str:
    """A text as a message may show it: at most 120 characters, control characters escaped."""
    return repr(text if len(text) <= 120 else text[:117] + "...")
