"""JOB.json: a stage's context in the form that a worker in another process or on another machine reads."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpt.launch.process_setup import ProcessSetup, StageHook, process_environment
from mmpt.store.canonical import read_json, write_json
from mmpt.store.errors import UserError
from mmpt.store.stage import StageContext, StageJob

FILE = "job.json"


@dataclass(frozen=True)
class Place:
    """Which of ``world`` workers this one is, and which of its machine's."""

    rank: int
    world: int
    local_rank: int

    @staticmethod
    def from_environment() -> Place:
        """As torchrun says it."""
        return Place(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))


@dataclass(frozen=True, kw_only=True)
class WorkerJob(StageJob):
    """One launch.

    Args:
        part, each: "module:name", as ``StageContext.spread`` was given them; ``each`` may be "".
        folder: of this launch, below ctx.work: reports, logs, this job's own file.
        setting: how a worker's process is prepared.
        path: where this process imports from, so that a worker finds the same.
    """

    part: str
    each: str
    folder: Path
    setting: ProcessSetup
    path: tuple[str, ...]

    @staticmethod
    def of(ctx: StageContext, part: str, each: str, setting: ProcessSetup) -> WorkerJob:
        return WorkerJob(
            **{**ctx.as_job(), "threads": threads_each(ctx)},
            part=part,
            each=each,
            folder=ctx.work / "launch" / part.partition(":")[2],
            setting=setting,
            path=tuple(path for path in sys.path if path),
        )

    def worker_context(self, device: str) -> StageContext:
        """The context of a worker. Workers have no output folder; writing there fails."""
        return self.context(Path(os.devnull), device=device)

    def environment(self) -> dict[str, str]:
        """What a worker's process has to find set when it starts."""
        # A borrowed layer goes back to the system, not to glibc's heap between what is kept: ranks of a 640 MB base
        # on a CPU had 2.9 GB each, and 1.4 GB with this.
        heap = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)} if self.launcher.shard_base else {}
        return {**process_environment(self.threads), **heap, "PYTHONPATH": os.pathsep.join(self.path)}

    def write(self) -> Path:
        """``WorkerJob.read(job.write()) == job``."""
        write_json(self.folder / FILE, self.to_json())
        return self.folder / FILE

    @staticmethod
    def read(path: Path) -> WorkerJob:
        return WorkerJob.from_json(read_json(path))

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> WorkerJob:
        hook = told["setting"]["hook"]
        found = hook and StageHook(**{**hook, **_folders(hook), "slice": tuple(hook["slice"])})
        return super().from_json(
            {
                **told,
                "folder": Path(told["folder"]),
                "path": tuple(told["path"]),
                "setting": ProcessSetup(**{**told["setting"], "hook": found}),
            }
        )


def _folders(told: Mapping[str, Any]) -> dict[str, dict[str, Path]]:
    return {key: {name: Path(path) for name, path in told[key].items()} for key in ("inputs", "external")}


def named(thing: Callable[..., Any] | None) -> str:
    """ "module:name" of a function or class that another process can import; "" of None.

    Raises:
        UserError: it has no such name.
    """
    if thing is None:
        return ""
    if "." in thing.__qualname__:
        raise UserError("a worker cannot import it", found=f"{thing.__module__}:{thing.__qualname__}")
    return f"{thing.__module__}:{thing.__qualname__}"


def threads_each(ctx: StageContext) -> int:
    """A worker's CPU threads: torchrun's workers on a CPU share the stage's, others have a machine's or a GPU's own."""
    if ctx.launcher.kind != "torchrun" or ctx.device != "cpu":
        return ctx.threads
    return max(1, ctx.threads // max(1, ctx.launcher.processes))
