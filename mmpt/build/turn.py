"""What the threads of one run may do at the same time: wait for their stages' processes, and nothing else.

With `runtime.jobs` above 1, doit runs its tasks in threads. All that a task does in doit's own process (fingerprints,
caches, publication, printing) happens under one lock, which a thread gives up only while it waits for its child.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any


class Turn:
    """A lock, and the way to end every thread that waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = False
        self._pipe: tuple[int, int] | None = None  # made by the process that uses it, not by the one it was forked from

    def __enter__(self) -> None:
        self._lock.acquire()
        self._pipe = self._pipe or os.pipe()

    def __exit__(self, *_: Any) -> None:
        self._lock.release()

    @contextlib.contextmanager
    def _given_up(self) -> Iterator[None]:
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()

    def wait(self, until: Sequence[Connection | int]) -> list[Any]:
        """The ones of `until` that are ready; the caller holds the lock, and others may have it meanwhile.

        Raises:
            KeyboardInterrupt: the run is being stopped.
        """
        assert self._pipe is not None, "the lock is not held"
        with self._given_up():
            ready = wait([*until, self._pipe[0]])
        if self._stopped:
            raise KeyboardInterrupt
        return ready

    def stop(self, threads: Sequence[threading.Thread], patience: float) -> None:
        """Interrupt every wait, and wait up to `patience` seconds for the threads to end."""
        self._stopped = True
        if self._pipe is not None:
            os.write(self._pipe[1], b".")  # never read: every wait sees it
        for thread in threads:
            thread.join(patience)
