"""Runs a step by its width: on CUDA from a captured graph, so that a step costs one launch; elsewhere as it
is.

Graphs are of fixed shape, so attention there looks at a multiple of `WIDTHS` columns; masked ones weigh
exactly 0. A width's first step runs uncaptured (it counts, and warms up what capturing may not: handles,
workspaces); the second is captured, and from then on replayed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

WIDTHS = 512


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
        if self.graphs[width] is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                self.step(width)
            self.graphs[width] = graph
        self.graphs[width].replay()

    def _uncaptured(self, width: int) -> None:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.step(width)
        torch.cuda.current_stream().wait_stream(self.stream)
