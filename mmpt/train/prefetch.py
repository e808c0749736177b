"""Prefetches batches: a background thread prepares the next few steps, in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

STEPS = 2  # made ahead: one that waits, one that is being made
T = TypeVar("T")


class Prefetcher(Generic[T]):
    """`make(step)` for each of `steps`, made in order; use it in a `with` block, which leaves no thread behind.

    Args:
        device: a CUDA device that the thread shall stand on, so that what it pins belongs to it.

    Attributes:
        waited: seconds that `next` has waited for the thread.
    """

    def __init__(self, make: Callable[[int], T], steps: range, device: torch.device | None = None):
        self.waited = 0.0
        self._make, self._steps, self._device = make, iter(steps), device
        self._made: deque[Future[T]] = deque()

    def __enter__(self) -> Prefetcher[T]:
        self._thread = ThreadPoolExecutor(1, "batches", initializer=self._stand)
        for _ in range(STEPS):
            self._ask()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """Of the next step; raises here what `make` raised for it."""
        if not self._made:
            raise StopIteration
        began = time.perf_counter()
        made = self._made.popleft().result()
        self.waited += time.perf_counter() - began
        self._ask()
        return made

    def _ask(self) -> None:
        for step in self._steps:
            self._made.append(self._thread.submit(self._make, step))
            return

    def _stand(self) -> None:
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.set_device(self._device)
