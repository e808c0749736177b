"""One training step under the profiler: its kernels, and every place where the host waits for the device.

    python -m mmpt.bench.train_profile [--device cuda] [--shape qwen3-0.6b] [--dtype bfloat16]

A step is to wait for nothing (mmpt/train/loop.py): each line of "waits" is a finding, with the line that caused it.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from mmpt import ops
from mmpt.bench.ops_profile import kernels_of
from mmpt.bench.train_work import LORA, WORKLOADS, make_base, make_data, open_loader, space_of
from mmpt.model.multimodal import MultimodalLM
from mmpt.train.loop import Hooks, train
from mmpt.train.settings import TrainSettings

BEFORE = 6  # steps before the one that is watched: allocator and cuBLAS are warm


@contextlib.contextmanager
def watched(device: str, waits: Counter[str]) -> Iterator[Any]:
    """Profiles what runs inside, and counts in `waits`, by our file and line, where the host waited for the device."""
    before = warnings.showwarning

    def count(message: Warning | str, *rest: Any, **more: Any) -> None:
        if "synchroniz" not in str(message):
            return before(message, *rest, **more)
        ours = [
            frame for frame in traceback.extract_stack() if "/mmpt/" in frame.filename and "bench" not in frame.filename
        ]
        waits[f"{ours[-1].filename.rsplit('/mmpt/', 1)[1]}:{ours[-1].lineno}" if ours else "elsewhere"] += 1
        return None

    cuda = device == "cuda"
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = count
        if cuda:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
                yield seen
        finally:
            if cuda:
                torch.cuda.set_sync_debug_mode("default")


def one_step(shape_name: str, dtype: torch.dtype, device: str, folder: Path) -> tuple[Any, Counter[str]]:
    """(profile of one optimizer step, where it waited)."""
    shape, waits, open_part = WORKLOADS[shape_name], Counter[str](), contextlib.ExitStack()
    make_data(folder, shape)
    make_base(folder / "base", shape, dtype, device)
    model = MultimodalLM.from_base(folder / "base", space_of(shape), LORA, seed=0, dtype=dtype, device=device)
    seen: list[Any] = []

    def look(step: int) -> dict[str, Any]:
        if step == BEFORE:
            seen.append(open_part.enter_context(watched(device, waits)))
        elif step == BEFORE + 1:
            open_part.close()
        return {}

    rates = dict.fromkeys(("lora", "embed", "head"), 1e-4)
    settings = TrainSettings(
        BEFORE + 2, rates, log_every=BEFORE + 2, save_every=BEFORE + 2, micro_rows=shape.micro_rows
    )
    with open_part:
        train(
            model,
            open_loader(folder, shape),
            settings,
            folder / "run",
            Hooks(measure=look, measure_at=(BEFORE, BEFORE + 1)),
        )
    return seen[0], waits


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shape", default="qwen3-0.6b", choices=list(WORKLOADS))
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    arguments = parser.parse_args(argv)
    ops.use("compiled")
    with tempfile.TemporaryDirectory() as folder:
        seen, waits = one_step(arguments.shape, getattr(torch, arguments.dtype), arguments.device, Path(folder))
    events = seen.key_averages()
    for one in kernels_of(events, 1)[:25]:
        print(f"  {one.name[:90]:90}{one.launches:8.0f}{one.microseconds:12.1f} us")
    device_time = sum(one.microseconds for one in kernels_of(events, 1))
    print(f"one step of {arguments.shape}: {device_time / 1e3:.1f} ms of kernels")
    print(f"waits for the device: {sum(waits.values())}")
    for place, count in waits.most_common():
        print(f"  {place}: {count}")


if __name__ == "__main__":
    main()
