"""What the machine can do: its name, its product and read rates, and the memory a process has used."""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mmpt.store.memory import status


def chip(device: str) -> str:
    """Name of the processor or GPU."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], device: str, *, repeats: int, limit: float) -> list[float]:
    """Wall time of each of at most `repeats` runs after one that warms up, stopping once `limit` seconds are spent."""
    run()
    wait(device)
    out: list[float] = []
    while len(out) < repeats and (sum(out) < limit or len(out) < 3):
        start = time.perf_counter()
        run()
        wait(device)
        out.append(time.perf_counter() - start)
    return out


STEPS_A_GRAPH = 20


def seconds_in_a_graph(run: Callable[[], object], *, repeats: int) -> list[float]:
    """Seconds of `run` on CUDA without its launches: of a captured graph that holds it some times over, a replay each.

    Raises RuntimeError where it waits for the device, or does else what a capture forbids.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(STEPS_A_GRAPH):
            run()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    graph.replay()
    marks[0].record()
    for mark in marks[1:]:
        graph.replay()
        mark.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 / STEPS_A_GRAPH for a, b in itertools.pairwise(marks)]


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def rates(device: str, dtype: torch.dtype) -> dict[str, float]:
    """Best of a few: FLOPs per second of a square product in `dtype`, and bytes per second of reading memory."""
    size = 8192 if device == "cuda" else 2048
    a = torch.randn(size, size, device=device).to(dtype)
    product = min(seconds(lambda: a @ a, device, repeats=5, limit=5))
    block = torch.ones((1 << 30) // 4 if device == "cuda" else (256 << 20) // 4, device=device)
    read = min(seconds(block.sum, device, repeats=5, limit=5))
    return {"flops": 2 * size**3 / product, "bytes": block.numel() * 4 / read}


class PeakMemory:
    """Bytes used beyond what was there at the start: resident memory on the CPU, allocated memory on CUDA."""

    def __init__(self, device: str):
        self.device = device
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now
            self.before = status("VmRSS")

    def extra(self) -> int:
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() - self.before
        return status("VmHWM") - self.before
