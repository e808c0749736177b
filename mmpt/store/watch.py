"""A line on stderr, with a rate, for work that takes longer than a second."""

from __future__ import annotations

import sys
import time

FIRST, EVERY = 1.0, 10.0  # seconds until the first line, and between two


class Watch:
    """Progress of one piece of work, said only if it takes long.

    Args:
        what: e.g. "hashing /data/clotho".
        total: how many files there are; 0: not known yet.
        bytes: of all of them, for the time that is left; 0: not known.
    """

    def __init__(self, what: str, total: int = 0, bytes: int = 0):
        self.what, self.total, self.bytes = what, total, bytes
        self.files = self.read = 0
        self._started = time.monotonic()
        self._next = self._started + FIRST

    def step(self, files: int, bytes: int = 0) -> None:
        """Count more finished files and their bytes."""
        self.files += files
        self.read += bytes
        now = time.monotonic()
        if now >= self._next:
            self._next = now + EVERY
            print(self.line(now - self._started), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """Where the work stands after ``seconds``."""
        of = f" of {self.total:,}" if self.total else ""
        rate = f", {self.read / seconds / 1e6:,.0f} MB/s" if self.read else f", {self.files / seconds:,.0f}/s"
        left = seconds * (self.bytes - self.read) / self.read if self.bytes and self.read else 0.0
        return f"{self.what}: {self.files:,}{of} files{rate}" + (f", {left:.0f} s left" if left else "")
