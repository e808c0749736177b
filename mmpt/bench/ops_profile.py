"""Where the time of the loss goes on a GPU: each kernel of a call, and each product alone, beside what was predicted.

    python -m mmpt.bench.ops_profile [--device cuda] [--rows 4096] [--dimensions 1024 4096]

The benchmark (`doit bench ops`) says how far the loss is from its floor; this says why. The predictions are arithmetic
from instruction and byte counts (mmpt/ops/README.md), made before any GPU ran: a figure far from its own is a finding.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from mmpt.bench import machine, ops_peers
from mmpt.bench.ops import NEW, VOCABULARY

CALLS = 5
CHUNKS = (1024, 1536, 2048, 2816, 4096)  # rows
PADDED = (VOCABULARY + 63) // 64 * 64 + 64  # columns of the scratch: both segments end on a multiple of 64
PREDICTED = {
    "row_kernel": "0.16 to 0.22 us per row on an H200: 0.15 for its bytes at 4.3 TB/s, 0.07 for its instructions",
    "compaction": "30 us for 16,384 labels",
    "d_hidden": "97 % of a square product's rate in 2,048 rows at H = 4,096, 73 % in 1,536: waves of 132 processors",
    "split": "1 % or less apart, unless an odd number of columns makes cuBLAS take a slower kernel",
}


@dataclass(frozen=True)
class Kernel:
    """Device time of all launches of one kernel in one call of the loss."""

    name: str
    launches: float
    microseconds: float


def kernels_of(events: Iterable, calls: int) -> list[Kernel]:
    """The kernels of a profile of `calls` equal calls, longest first. events: of `profile.key_averages()`."""
    found = [
        Kernel(event.key, event.count / calls, event.self_device_time_total / calls)
        for event in events
        if event.self_device_time_total > 0 and event.self_cpu_time_total == 0
    ]
    return sorted(found, key=lambda one: -one.microseconds)


def profiled_call(rows: int, h: int, trains: str, device: str) -> list[Kernel]:
    """Kernels of the loss with its gradients, forward and backward, every row supervised."""
    problem = ops_peers.loss_problem(rows, rows, h, torch.bfloat16, device, trains)
    step = ops_peers.ours(problem)
    step().backward()
    machine.wait(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as seen:
        for _ in range(CALLS):
            step().backward()
        machine.wait(device)
    return kernels_of(seen.key_averages(), CALLS)


def call_table(kernels: Sequence[Kernel], rows: int) -> str:
    """One call's kernels with the time of each row, and the prediction where there is one."""
    lines = []
    for one in kernels:
        said = next((text for name, text in PREDICTED.items() if name in one.name), "")
        short = one.name.split("(")[0][-60:]
        lines.append(
            f"  {short:60}{one.launches:8.1f}{one.microseconds:12.1f} us{one.microseconds / rows:10.4f} us/row  {said}"
        )
    return "\n".join(lines) or "  no kernel was seen: the profiler has no access to the GPU's counters, or ran on a CPU"


@dataclass(frozen=True)
class Product:
    """One product of a chunk: out [m, n] = a [m, k] @ b [k, n]. cut: the dimension that is cut at a multiple of 64."""

    name: str
    m: int
    k: int
    n: int
    cut: str

    @property
    def flops(self) -> float:
        return 2.0 * self.m * self.k * self.n


def products(rows: int, h: int, base: int = VOCABULARY - NEW, new: int = NEW) -> list[Product]:
    """The large products of a chunk: logits and d_hidden of the base's columns, d_new."""
    return [
        Product("logits", rows, h, base, "n"),
        Product("d_hidden", rows, base, h, "k"),
        Product("d_new", new, rows, h, ""),
    ]


def product_seconds(one: Product, device: str, split: bool, padded: int) -> float:
    """Median seconds of a product in bfloat16, summed into fp32 where the loss sums there.

    split: whether it is cut. padded: elements of a row of logits, as in the loss's scratch.
    """
    kinds: dict[str, Any] = {"device": device, "dtype": torch.bfloat16}
    wide = torch.float32 if device == "cuda" and one.name != "logits" else torch.bfloat16
    options: dict[str, Any] = {"out_dtype": wide} if wide != torch.bfloat16 else {}
    if one.name == "logits":
        a, b = torch.randn(one.m, one.k, **kinds), torch.randn(one.n, one.k, **kinds).T
        out = torch.empty(one.m, padded, **kinds)[:, : one.n]
    elif one.name == "d_hidden":
        a, b = torch.randn(one.m, padded, **kinds)[:, : one.k], torch.randn(one.k, one.n, **kinds)
        out = torch.empty(one.m, one.n, device=device, dtype=wide)
    else:
        a, b = torch.randn(one.k, padded, **kinds)[:, : one.m].T, torch.randn(one.k, one.n, **kinds)
        out = torch.empty(one.m, one.n, device=device, dtype=wide)
    size = {"n": one.n, "k": one.k, "": 0}[one.cut]
    whole = size // 64 * 64 if split else size

    def run() -> None:
        if one.cut == "n":
            torch.mm(a, b[:, :whole], out=out[:, :whole])
            if whole < size:
                torch.mm(a, b[:, whole:], out=out[:, whole:])
        elif one.cut == "k" and whole < size:
            torch.mm(a[:, :whole], b[:whole], out=out, **options)
            torch.addmm(out, a[:, whole:], b[whole:], out=out, **options)
        else:
            torch.mm(a, b, out=out, **options)

    return machine.quantile(machine.seconds(run, device, repeats=20, limit=1.0), 0.5)


def product_table(
    h: int,
    device: str,
    rate: float,
    chunks: Sequence[int] = CHUNKS,
    base: int = VOCABULARY - NEW,
    new: int = NEW,
    padded: int = PADDED,
) -> str:
    """TFLOP/s of each product by rows of a chunk, cut at 64 columns and whole, beside a square product's rate."""
    lines = []
    for rows in chunks:
        for one in products(rows, h, base, new):
            for split in (True, False) if one.cut else (False,):
                title = f"  {one.name:10} rows {rows:5} {'cut' if split else 'whole':6}"
                try:
                    speed = one.flops / product_seconds(one, device, split, padded)
                except RuntimeError as error:
                    lines.append(f"{title}failed: {str(error).splitlines()[0][:100]}")
                    continue
                lines.append(f"{title}{speed / 1e12:8.1f} TFLOP/s {speed / rate:5.0%} of a square product's")
    return "\n".join([*lines, f"  predicted: d_hidden {PREDICTED['d_hidden']}; cut against whole {PREDICTED['split']}"])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[1024, 4096])
    arguments = parser.parse_args(argv)
    for h in arguments.dimensions:
        for trains in ("new", "all"):
            print(f"loss bfloat16, {arguments.rows} rows, H = {h}, trains {trains}: one call", flush=True)
            print(call_table(profiled_call(arguments.rows, h, trains, arguments.device), arguments.rows), flush=True)
    rates = machine.rates(arguments.device, torch.bfloat16)
    print(f"square product {rates['flops'] / 1e12:.0f} TFLOP/s, reading {rates['bytes'] / 1e12:.2f} TB/s")
    for h in arguments.dimensions:
        print(f"products, H = {h}", flush=True)
        print(product_table(h, arguments.device, rates["flops"]), flush=True)


if __name__ == "__main__":
    main()
