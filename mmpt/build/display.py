"""What a run shows while it runs: a bar on a terminal, plain lines elsewhere, one line a finished stage."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY = 10.0  # seconds between two plain progress lines of a stage
NAME_WIDTH = 16


class Display:
    """The terminal of one run. Not thread-safe: one stage runs at a time.

    Args:
        stream: where to print; a bar is drawn if it is a terminal.
    """

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stdout
        self._bar: Progress | None = None
        self._last = 0.0
        self._name = ""

    def line(self, name: str, text: str) -> None:
        """One line about a stage; further lines of ``text`` are indented below it."""
        self.close()
        print(f"{name:<{NAME_WIDTH}} {text}", file=self.stream, flush=True)

    def loud(self, text: str) -> None:
        """One line that must not be overlooked."""
        self.close()
        mark, end = ("\x1b[1;31m", "\x1b[0m") if self.stream.isatty() else ("", "")
        print(f"{mark}!! {text}{end}", file=self.stream, flush=True)

    def start(self, name: str) -> None:
        """A stage begins."""
        self.close()
        self._name, self._last, self._started = name, time.monotonic(), time.monotonic()

    def progress(self, done: int, total: int, text: str) -> None:
        """The running stage stands at ``done`` of ``total``."""
        if self.stream.isatty():
            self._draw(done, total, text)
        elif time.monotonic() - self._last >= LINE_EVERY:
            self._last = time.monotonic()
            left = (time.monotonic() - self._started) * (total - done) / done if done else 0.0
            self.line(self._name, f"{done}/{total} {text} ({left:.0f} s left)".replace("  ", " "))

    def _draw(self, done: int, total: int, text: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            # Redrawn by hand: rich's refresh thread would live on in a forked child.
            self._bar = Progress(
                TextColumn(f"{self._name:<{NAME_WIDTH}}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}", markup=False),
                console=Console(file=self.stream),
                auto_refresh=False,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=total)
        self._bar.update(self._task, completed=done, total=total, description=text)
        self._bar.refresh()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
