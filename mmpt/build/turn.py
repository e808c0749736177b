"""A lock for the threads of one run: they may only wait for their stages' processes at the same time.

With `runtime.jobs` above 1, doit runs its tasks in threads. All that a task does in doit's own process (fingerprints,
caches, publication, printing) happens under one lock, which a thread gives up only while it waits for its child.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any


class Turn:
    """A lock, and the way to end every thread that waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)  # somebody's turn is over
        self._inside = 0  # turns that are not over, those that wait for their child among them
        self._stopped = False
        self._pipe: tuple[int, int] | None = None  # made by the process that uses it, not by the one it was forked from

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._stopped:
            self._lock.release()
            raise KeyboardInterrupt
        self._inside += 1
        self._pipe = self._pipe or os.pipe()

    def __exit__(self, *_: Any) -> None:
        self._inside -= 1
        self._left.notify_all()
        self._lock.release()

    @contextlib.contextmanager
    def _given_up(self) -> Iterator[None]:
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()

    def wait(self, until: Sequence[Connection | int], seconds: float | None = None) -> list[Any]:
        """The ones of `until` that are ready; the caller holds the lock, and others may have it meanwhile.

        Args:
            seconds: to wait at most; then none is ready.

        Raises:
            KeyboardInterrupt: the run is being stopped.
        """
        assert self._pipe is not None, "the lock is not held"
        with self._given_up():
            ready = wait([*until, self._pipe[0]], seconds)
        if self._stopped:
            raise KeyboardInterrupt
        return ready

    def stop(self, patience: float) -> bool:
        """Interrupt every wait, let nobody in, and wait up to `patience` seconds for the turns that are not over.

        Returns whether all are over.
        """
        self._stopped = True
        if self._pipe is not None:
            os.write(self._pipe[1], b".")  # never read: every wait sees it
        end = time.monotonic() + patience
        if not self._lock.acquire(timeout=patience):
            return False
        try:
            return self._left.wait_for(lambda: not self._inside, end - time.monotonic())
        finally:
            self._lock.release()
