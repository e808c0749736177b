"""The process that a stage runs in: set up the machine, check its gates again, call the body, report how it ended.

It reports to the build through one pipe, a JSON object a message: {"progress": [done, total, text]}, and last
{"end": status, "text": one line, "info": numbers}. Everything printed goes to the stage's log.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mmpt.launch import launch
from mmpt.launch.errors import WorkersFailed
from mmpt.launch.process_setup import ProcessSetup, failure, hook_of, peak_memory_mib, prepare, resolve
from mmpt.launch.slurm_queue import cancel_noted
from mmpt.store.errors import Blocked, UserError
from mmpt.store.lock import hold
from mmpt.store.stage import StageContext, StageJob

DYING = 30.0  # seconds to wait for the processes of a killed run to be gone
PROGRESS_EVERY = 0.1  # seconds between two progress messages


@dataclass(frozen=True, kw_only=True)
class Job(StageJob):
    """One attempt at a stage.

    Args:
        body: "module:function".
        out: folder to fill. root: artifacts/<profile>. policy: gates/policy.yaml.
        needs: gates that must be GO.
        setting: how the process is prepared.
    """

    body: str
    out: Path
    root: Path
    policy: Path
    needs: tuple[str, ...]
    setting: ProcessSetup

    @property
    def log(self) -> Path:
        assert self.logs is not None, "an attempt always has a folder for its log"
        return self.logs / f"{self.name}.log"


def run_job(job: Job, pipe: Connection) -> None:
    """Entry point of the child process."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # A group of its own: everything that the body starts ends with it, and Ctrl-C reaches it once, forwarded.
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    watcher = _watch_doit(pipe)
    try:
        _log_to(job.log)
    except OSError as error:  # nothing runs that could not say what it did
        _tell_end(pipe, *failure(error), {})
    else:
        _run_body(job, pipe)
    os.kill(watcher, signal.SIGKILL)
    os.waitpid(watcher, 0)


def _run_body(job: Job, pipe: Connection) -> None:
    started = time.monotonic()
    context = _context(job, pipe)
    status, text = _attempt(job, context)
    _flush()
    info = {
        **context.run_info,
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory_mib": peak_memory_mib(),
    }
    _tell_end(pipe, status, text, info)


def _tell_end(pipe: Connection, status: str, text: str, info: dict[str, Any]) -> None:
    pipe.send_bytes(json.dumps({"end": status, "text": text, "info": info}, default=float).encode())


def _attempt(job: Job, context: StageContext) -> tuple[str, str]:
    """Run the body; how it ended: "ok", "blocked", "refused" (by a UserError), "disk" (full or failing), "broke"."""
    try:
        hold(job.work.with_suffix(".lock"), DYING)
        _cancel_others(job)
        if job.needs:
            from mmpt.gating import load_policy, require

            require(job.root, job.needs, load_policy(job.policy, job.profile))
        prepare(context, job.setting)
        context.on_save = hook_of(context, job.setting.hook)
        resolve(job.body)(context)
    except Blocked as error:
        return "blocked", str(error)
    except UserError as error:
        return "refused", str(error)
    except WorkersFailed as error:  # what they said is in the log already
        return failure(error)
    except BaseException as error:
        # Whatever a body raises is reported to the build; its traceback is in the log.
        with contextlib.suppress(OSError):  # a full disk has no room for the traceback either
            traceback.print_exc()
        return failure(error)
    return "ok", ""


def _cancel_others(job: Job) -> None:
    """End what earlier runs queued for this stage in another version, or with another launcher."""
    works = job.work.parent.glob(f"work-{job.name}-*")
    for line in cancel_noted(works, keep=job.work if job.launcher.kind == "slurm" else None):
        print(line, flush=True)


def _flush() -> None:
    """Get the log's last bytes out; a disk too full for them does not fail a result that is whole."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()


def _context(job: Job, pipe: Connection) -> StageContext:
    context = job.context(
        job.out,
        on_progress=_progress(pipe),
        on_log=lambda line: print(line, flush=True),
        run_info={"launcher": {"kind": "local"}},
    )
    if job.launcher.spreads:
        context.on_spread = lambda part, each: launch(context, part, each, job.setting)
    return context


def _progress(pipe: Connection) -> Callable[[int, int, str], None]:
    last = 0.0

    def tell(done: int, total: int, text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last >= PROGRESS_EVERY:
            last = now
            pipe.send_bytes(json.dumps({"progress": [int(done), int(total), text]}).encode())

    return tell


def _watch_doit(pipe: Connection) -> int:
    """Start the process that ends this one's group when doit ends, however it ends; its process id.

    It waits for doit's end of the pipe to close. A thread would wait for the interpreter while a body
    computes, and the kernel's own signal at a parent's death would end this process alone, before it ended
    what it started; nor is doit the parent of a stage that is forked from the process with torch.
    """
    stage = os.getpid()
    if (watcher := os.fork()) != 0:
        return watcher
    try:
        os.setpgid(0, 0)  # not reached by what is sent to the stage
        os.closerange(0, pipe.fileno())  # the end of the stage is seen by the closing of its files
        os.closerange(pipe.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        poll = select.poll()
        poll.register(pipe.fileno(), 0)  # only what is always reported: the reader is gone
        poll.poll()
        os.killpg(stage, signal.SIGKILL)
    finally:
        os._exit(0)


def _log_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(nothing)
