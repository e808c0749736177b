"""Benchmark of a decoding step's attention: `doit bench attention [--device cuda]`.

One id a row looks at a cache of `--columns`, as `mmpt.generate` lays it out: keys and values of `--kv` heads, a mask
that rows share with all heads, `--groups` query heads to one of keys. Every kernel of torch that takes it, with query
heads as queries of the head they share (ours) and with keys and values repeated for them (transformers before 5.23).
Beside each time stands the share of the memory's rate: keys and values read once. Prints a line each and writes
results/attention-<chip>-<date>.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmpt.bench import machine, record
from mmpt.model.attention import attention

KERNELS = {"efficient": SDPBackend.EFFICIENT_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}


def problem(given: argparse.Namespace, columns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries [rows, kv * groups, 1, width], keys and values [rows, kv, columns, width] of a longer cache, a mask."""
    kind = {"device": given.device, "dtype": getattr(torch, given.dtype)}
    query = torch.randn(given.rows, given.kv * given.groups, 1, given.width, **kind)
    cache = torch.randn(2, given.rows, given.kv, columns + 512, given.width, **kind)
    seen = torch.arange(columns, device=given.device) < torch.randint(1, columns, (given.rows, 1), device=given.device)
    mask = torch.zeros(seen.shape, **kind).masked_fill_(~seen, -torch.inf)[:, None, None]
    return query, cache[0, :, :, :columns], cache[1, :, :, :columns], mask


def shared(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    module = SimpleNamespace(num_key_value_groups=query.shape[1] // key.shape[1])
    return attention(module, query, key, value, mask)[0]


def repeated(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = (one.repeat_interleave(groups, 1) for one in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def measure(way: Callable[..., Tensor], tensors: Sequence[Tensor], kernel: SDPBackend, device: str) -> dict[str, Any]:
    """Seconds a call, the median; on CUDA in a captured graph. Or why there are none."""
    try:
        with sdpa_kernel(kernel), torch.no_grad():
            if device == "cuda":
                times = machine.seconds_in_a_graph(lambda: way(*tensors), repeats=10)
            else:
                times = machine.seconds(lambda: way(*tensors), device, repeats=10, limit=2)
    except RuntimeError as error:
        return {"absent": str(error).splitlines()[0][:120]}
    return {"seconds": machine.quantile(times, 0.5)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    for name, default in (("rows", 64), ("kv", 8), ("groups", 4), ("width", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--columns", type=int, nargs="+", default=[512, 1536, 3072])
    given = parser.parse_args(argv)
    rate = machine.rates(given.device, getattr(torch, given.dtype))["bytes"]
    rows = []
    for columns in given.columns:
        tensors = problem(given, columns)
        floor = sum(one.numel() * one.element_size() for one in tensors[1:3]) / rate
        for way in (shared, repeated):
            for name, kernel in KERNELS.items():
                found = measure(way, tensors, kernel, given.device)
                rows.append({"columns": columns, "way": way.__name__, "kernel": name, "floor": floor, **found})
                print(line(rows[-1]), flush=True)
    found = {**vars(given), "torch": torch.__version__, "bytes_a_second": rate, "rows": rows}
    print(record.write("attention", given.device, found))


def line(row: dict[str, Any]) -> str:
    """One measurement as text."""
    head = f"{row['columns']:>6} columns  {row['way']:<9}{row['kernel']:<10}"
    if "absent" in row:
        return f"{head}absent: {row['absent']}"
    return f"{head}{row['seconds'] * 1e6:>10.0f} us  {row['floor'] / row['seconds']:>5.0%} of the memory's rate"


if __name__ == "__main__":
    main()
