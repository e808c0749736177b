"""Runs decoding steps by their width: on CUDA from a captured graph, one launch per step; elsewhere directly.

Graphs are of fixed shape, so attention there looks at a multiple of `WIDTHS` columns; masked ones weigh
exactly 0. A width's first step runs uncaptured (it counts, and warms up what capturing may not: handles,
workspaces); the second is captured, and from then on replayed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

WIDTHS = 512
# For a mask the memory-efficient kernel remains. cuDNN's would come first on Hopper, and plans anew for each width.
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@contextlib.contextmanager
def plain_writes(device: torch.device) -> Iterator[None]:
    """On CUDA, writes at indices as they are, and attention by `KERNELS`.

    Decoding writes no address twice at a time, so its results do not depend on order anyway. torch's deterministic
    form does not know that: it sorts the indices, and for each state it stores it copies the layer's cache twice.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        with sdpa_kernel(KERNELS):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


class Stepper:
    """`step(width)` over static buffers, for widths up to `columns` of a cache."""

    def __init__(self, step: Callable[[int], None], columns: int, device: torch.device):
        self.step, self.columns, self.captures = step, columns, device.type == "cuda"
        self.graphs: dict[int, torch.cuda.CUDAGraph | None] = {}
        if self.captures:
            self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)

    def __call__(self, width: int) -> None:
        """One step with at least `width` columns."""
        if not self.captures:
            return self.step(width)
        width = min(-(-width // WIDTHS) * WIDTHS, self.columns)
        if width not in self.graphs:
            self.graphs[width] = None
            return self._uncaptured(width)
        if (graph := self.graphs[width]) is None:
            graph = torch.cuda.CUDAGraph()
            # A capture of this thread alone, so that prefetching threads cannot invalidate it.
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                self.step(width)
            self.graphs[width] = graph
        graph.replay()

    def _uncaptured(self, width: int) -> None:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.step(width)
        torch.cuda.current_stream().wait_stream(self.stream)
