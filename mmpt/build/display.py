"""The display of a run: a bar on a terminal, plain lines elsewhere, one line per finished stage."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from mmpt.build.call import hinted

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_EVERY = 10.0  # seconds between two plain progress lines of a stage
SILENCE = 30.0  # seconds without a line after which one says that the stage still runs
NAME_WIDTH = 16


class Display:
    """The terminal of one run. Its caller lets one thread in at a time.

    Args:
        stream: where to print; a bar for each running stage is drawn if it is a terminal.
    """

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stdout
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, float] = {}
        self._began: dict[str, float] = {}
        self._first: dict[str, tuple[int, int, float]] = {}  # (done, total, when) that a rate is counted from

    def line(self, name: str, text: str) -> None:
        """One line about a stage; further lines of ``text`` are indented below it."""
        self.close()
        print(f"{name:<{NAME_WIDTH}} {hinted(text)}", file=self.stream, flush=True)

    def loud(self, text: str) -> None:
        """One line that must not be overlooked."""
        self.close()
        mark, end = ("\x1b[1;31m", "\x1b[0m") if self.stream.isatty() else ("", "")
        print(f"{mark}!! {hinted(text)}{end}", file=self.stream, flush=True)

    def start(self, name: str) -> None:
        """A stage begins."""
        self._last[name] = self._began[name] = time.monotonic()

    def silence(self, name: str) -> None:
        """A running stage says nothing: after a while, how long it runs."""
        now = time.monotonic()
        if self.stream.isatty():
            if name not in self._tasks and now - self._began[name] >= LINE_EVERY:
                self._draw(name, 0, None, "")
            elif self._bars is not None:
                self._bars.refresh()
        elif now - self._last[name] >= SILENCE:
            self._last[name] = now
            self.line(name, f"still runs, for {now - self._began[name]:.0f} s")

    def progress(self, name: str, done: int, total: int, text: str) -> None:
        """A running stage is at ``done`` of ``total``; 0: nobody knows of how many."""
        if self.stream.isatty():
            self._draw(name, done, total or None, text)
            return
        now = time.monotonic()
        first, of, since = self._first.setdefault(name, (done, total, now))
        if done < first or total != of:  # another part of the stage
            first, of, since = self._first[name] = (done, total, now)
        if now - self._last[name] >= LINE_EVERY:
            self._last[name] = now
            rate = (done - first) / (now - since) if now > since else 0.0
            left = f", {(total - done) / rate:.0f} s left" if rate and total else ""
            speed = f"({rate:.3g}/s{left})" if rate else ""
            self.line(name, " ".join(f"{f'{done}/{total}' if total else done} {text} {speed}".split()))

    def _draw(self, name: str, done: int, total: int | None, text: str) -> None:
        if self._bars is None:
            self._bars = _bars(self.stream)
            self._bars.start()
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task("", total=total, stage=f"{name:<{NAME_WIDTH}}")
        self._bars.update(self._tasks[name], completed=done, total=total, description=text)
        self._bars.refresh()

    def end(self, name: str) -> None:
        """A stage has ended; the bars of others come back with their next progress."""
        self.close()
        self._last.pop(name, None)
        self._first.pop(name, None)
        self._began.pop(name, None)

    def close(self) -> None:
        """Take the bars away."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks.clear()


def _bars(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.3g}/s" if task.speed else "")

    return Progress(
        TextColumn("{task.fields[stage]}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(file=stream),
        auto_refresh=False,  # redrawn by hand: rich's refresh thread would live on in a forked child
        transient=True,
    )
