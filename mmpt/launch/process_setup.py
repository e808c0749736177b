"""The set-up of a process before a stage's code runs: torch's settings, the compiled module, a hook."""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmpt.launch.arithmetic import exact_arithmetic
from mmpt.store.errors import FAILS, FULL, MAY_NOT_WRITE, TOO_MANY_OPEN, UserError
from mmpt.store.memory import peak_resident
from mmpt.store.stage import SliceView, StageContext

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
OnSave = Callable[[int, Path], None]


@dataclass(frozen=True)
class StageHook:
    """A stage's on_save: its factory, and what the context that it is called with has."""

    factory: str
    stage: str
    slice: tuple[str, ...]
    inputs: dict[str, Path]
    external: dict[str, Path]


@dataclass(frozen=True)
class ProcessSetup:
    """What a stage's process needs beside its context.

    Args:
        torch: whether it uses torch.
        hook: what is called after each checkpoint.
        module: the input that holds the compiled operations; empty: none.
    """

    torch: bool = False
    hook: StageHook | None = None
    module: str = ""


def process_environment(threads: int) -> dict[str, str]:
    """Set before a child starts: libraries read them at import. Sets iterate by hash, hence the hash seed."""
    return {
        **{name: str(threads) for name in THREAD_VARIABLES},
        # numpy's products here are small: with two BLAS threads a melrvq decode took 45 to 250 ms, else 14.
        "OPENBLAS_NUM_THREADS": "1",
        # A thread that waits for the others sleeps. Spinning takes the core from the one that is waited for: beside two
        # busy processes on two cores, two training threads made 0.3 steps/s, and 3.4 to 6.7 with this.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONHASHSEED": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TOKENIZERS_PARALLELISM": "false",
        # The question whether there is a GPU, which imports of libraries ask too, goes to the driver's library and does
        # not start CUDA: a process that is forked from one with CUDA cannot use it.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }


def prepare(ctx: StageContext, setting: ProcessSetup) -> None:
    """Make this process one in which the stage's code may run."""
    if setting.torch:
        set_up_torch(ctx.threads, ctx.seed)
        _check_device(ctx.device)
    if setting.module:
        from mmpt.ops import adopt

        adopt(ctx.inputs[setting.module])


def hook_of(ctx: StageContext, hook: StageHook | None) -> OnSave | None:
    """The function to call after each checkpoint, or None."""
    if hook is None:
        return None
    seen = replace(
        ctx,
        name=hook.stage,
        profile=SliceView(ctx.profile.whole[0], hook.slice, hook.stage),
        inputs=hook.inputs,
        external=hook.external,
        on_progress=lambda done, total, text: None,
        on_spread=None,
    )
    return undisturbed(resolve(hook.factory)(seen))


def undisturbed(hook: OnSave | None) -> OnSave | None:
    """The hook, leaving random states as they were: whether its cache is warm must not change a training."""
    if hook is None:
        return None
    import random

    import numpy
    import torch

    def look(step: int, checkpoint: Path) -> None:
        ours, theirs = random.getstate(), numpy.random.get_state()
        # The device in use alone: by default fork_rng touches every GPU.
        devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=devices):
            hook(step, checkpoint)
        random.setstate(ours)
        numpy.random.set_state(theirs)

    return look


def set_up_torch(threads: int, seed: int) -> None:
    """Threads, seed and determinism of torch, of a stage and of a command that computes what a stage computes."""
    import torch

    torch.manual_seed(seed)  # its own first seed comes from the machine
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    settings: Any = torch.utils.deterministic
    settings.fill_uninitialized_memory = False  # for finding reads of empty(): a kernel each time
    exact_arithmetic()


def _check_device(device: str) -> None:
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        build = "" if torch.version.cuda else f" (torch {torch.__version__} is built without CUDA)"
        raise UserError(
            "the profile computes on CUDA, and there is no GPU that torch can use",
            where="runtime.device",
            found=f"cuda{build}",
            fix="run where nvidia-smi shows a GPU, or set runtime.device to cpu",
        )


def resolve(name: str) -> Any:
    """What "module:name" names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def failure(error: BaseException) -> tuple[str, str]:
    """How an exception other than UserError ends a stage: ("disk" or "broke", what to print)."""
    if said := disk_fault(error):
        return "disk", said
    return "broke", f"{type(error).__name__}: {error}"


def disk_fault(error: BaseException | None) -> str:
    """The line for an exception that comes from a disk, "" for any other; libraries wrap the errno in their own.

    Errors of a socket, which share ENOTCONN and others with FUSE, name no file: they are not taken for a disk's.
    """
    while error is not None:
        if (isinstance(error, OSError) and error.errno in FULL) or os.strerror(errno.ENOSPC) in str(error):
            return f"the disk is full: {error}"
        if isinstance(error, OSError) and error.errno in TOO_MANY_OPEN:
            return f"too many files are open: {error}; raise `ulimit -n`"
        if isinstance(error, OSError) and (error.errno in (errno.EIO, errno.ESTALE) or error.filename is not None):
            if error.errno in FAILS:
                return f"the disk or its network fails: {error}; look at dmesg or the mount, then run doit again"
            if error.errno in MAY_NOT_WRITE:
                return f"a file may not be read or written: {error}; look at its mode, its owner and the mount"
        error = error.__cause__ or error.__context__
    return ""


def peak_memory_mib() -> float:
    """Peak resident memory of this process, MiB."""
    return round(peak_resident() / 2**20, 1)
