"""One attempt at one stage: a process of its own, its staging folder, its publication.

Stages without torch get a fresh interpreter. Stages with torch are forked from one process that imported
torch, transformers and peft once (5 s), which is multiprocessing's forkserver. Either way the child runs with
its thread counts and hash seed set before anything could read them, and dies with the build.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import multiprocessing
import multiprocessing.util
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import mmpt
from mmpt.build.child import Job, run_job
from mmpt.build.declaration import Stage
from mmpt.build.fingerprint import SOURCES, Definition, define, external, fingerprint, granted_digests, manifest_digest
from mmpt.build.policy import granted, policy_of
from mmpt.build.project import Project
from mmpt.build.receipts import DATA, adopt, machine, publish, sweep
from mmpt.build.sharing import Taken, earlier, find, keep, offer, take
from mmpt.build.staleness import EDITED_WHILE_RUNNING
from mmpt.build.turn import Turn
from mmpt.gating import require
from mmpt.launch.process_setup import ProcessSetup, StageHook, disk_fault, process_environment
from mmpt.profile import launcher_of
from mmpt.store.digests import sha256_file
from mmpt.store.errors import Blocked, UserError

LONGEST_TMPDIR = 70  # bytes: the rest of a socket's path is for names that multiprocessing makes
SHORT_TMPDIRS = ("/tmp", "/var/tmp", "/dev/shm")
PRELOADED = ["torch", "transformers", "transformers.models.qwen3.modeling_qwen3", "peft"]
LAST_LINES = 12  # of the log, shown when a stage breaks
KEPT_LOGS = 4  # of earlier attempts at a stage, beside the log of the last one
KILLED: dict[int, str] = {
    signal.SIGKILL: " (out of memory?)",
    signal.SIGBUS: " (a file became shorter, or its disk failed, while it was read)",
}
FORKED: set[int | None] = set()  # stages that were forked from the process with torch
GRACE = 5.0  # seconds between asking a process to end and ending it


class StageError(Exception):
    """A stage did not come to a result.

    Args:
        status: "blocked", "refused", "disk" (full, read-only or failing) or "broke".
        text: what to print: one line, or for "broke" the log's path and last lines too.
    """

    def __init__(self, status: str, text: str):
        self.status = status
        super().__init__(text)


@dataclass(frozen=True)
class Built:
    """How an attempt ended well.

    Args:
        manifest: digest of the published manifest.
        changed: whether it differs from what was there before.
        adopted: it was found complete in staging; the body did not run.
        taken: where the result was taken from; the body did not run.
        warning: something to tell, or "".
    """

    manifest: str
    changed: bool
    seconds: float
    adopted: bool = False
    taken: Taken | None = None
    warning: str = ""


OnProgress = Callable[[int, int, str], None]
Watch = tuple[OnProgress, Callable[[], None]]  # on_progress, and on_silence of `build`
LOOKS_EVERY = 1.0  # seconds between two looks at a stage that says nothing


def build(
    project: Project,
    stage: Stage,
    on_progress: OnProgress,
    turn: Turn,
    *,
    again: bool = False,
    on_silence: Callable[[], None] = lambda: None,
) -> Built:
    """Publish the result of ``stage``: one that is there already (sharing.py), else what its body writes now.

    Args:
        turn: the caller holds it; other stages may run while the body does.
        again: run the body, also where its result is there.
        on_silence: called each second in which the body says nothing.

    Raises:
        StageError: refused, blocked, broken, or no room on the disk. What was published before stays.
    """
    started = time.monotonic()
    try:
        return _build(project, stage, (on_progress, on_silence), turn, started, again)
    except UserError as error:
        raise StageError("refused", str(error)) from None
    except OSError as error:
        if not (said := disk_fault(error)):
            raise
        raise StageError("disk", said) from None


def _build(project: Project, stage: Stage, watch: Watch, turn: Turn, started: float, again: bool) -> Built:
    for name in stage.inputs:
        if not (project.root / name / DATA).is_dir():
            raise StageError("refused", f"it needs {name}, which is not built; run `doit {stage.name}` without -s")
    _look_again(project, stage)
    before, definition = manifest_digest(project, stage.name), define(project, stage)
    if adopt(project, stage, definition):
        said = "; ".join(sweep(project, (stage.name,)))
        after = manifest_digest(project, stage.name)
        return Built(after, after != before, time.monotonic() - started, adopted=True, warning=said)
    if not again and (taken := _take(project, stage, definition)):
        said = "; ".join(sweep(project, (stage.name,)))
        after = manifest_digest(project, stage.name)
        return Built(after, after != before, time.monotonic() - started, taken=taken, warning=said)
    attempt = project.staging / f"out-{stage.name}-{os.getpid()}"
    shutil.rmtree(attempt, ignore_errors=True)
    known = () if again or not stage.reuses else tuple(earlier(project, stage, definition))
    job = _job(project, stage, attempt, fingerprint(definition), known)
    run_id, start = uuid.uuid4().hex, _now()
    try:
        info = _run(job, watch, turn, stage.ends_within)
        final, warning = _settled(project, stage, definition)
        details = _details(run_id, start, job.log, info)
        incoming = None if warning else offer(project, stage, attempt)
        manifest = publish(project, stage, attempt, final, details)
        keep(project, stage, incoming, fingerprint(final))
    finally:
        shutil.rmtree(attempt, ignore_errors=True)
    said = "; ".join(filter(None, (warning, *sweep(project, (stage.name,)))))
    return Built(manifest, manifest != before, time.monotonic() - started, warning=said)


def _look_again(project: Project, stage: Stage) -> None:
    """See the sources as they are now, before and after a stage that reads them; hundreds of thousands of stats."""
    if "corpus.sources" in stage.external:
        project.sources.look_again()


def _take(project: Project, stage: Stage, definition: Definition) -> Taken | None:
    """A result that is there already, behind the same gates as a body that makes one."""
    if not any(find(project, stage, fingerprint(definition))):
        return None
    try:
        require(project.root, stage.needs, policy_of(project))
    except Blocked as error:
        raise StageError("blocked", str(error)) from None
    return take(project, stage, definition)


def work_folder(project: Project, stage: Stage, identity: str) -> Path:
    """Where a stage keeps what a later attempt with the same fingerprint goes on from."""
    return project.staging / f"work-{stage.name}-{identity[:12]}"


def _job(project: Project, stage: Stage, attempt: Path, identity: str, known: tuple[Path, ...]) -> Job:
    work = work_folder(project, stage, identity)
    (attempt / DATA).mkdir(parents=True)
    work.mkdir(parents=True, exist_ok=True)
    return Job(
        name=stage.name,
        body=stage.body,
        profile=dict(project.profile.data),
        slice=stage.slice,
        inputs=_inputs(project, stage),
        external=_folders(project, stage),
        out=attempt / DATA,
        work=work,
        root=project.root,
        policy=project.repo / "gates" / "policy.yaml",
        needs=stage.needs,
        logs=project.root / "logs",
        seed=project.profile.data["seed"],
        threads=project.runtime("threads"),
        device=project.runtime("device"),
        dtype=project.runtime("dtype"),
        launcher=launcher_of(project.profile.data, stage.name),
        setting=ProcessSetup(stage.torch, _hook(project, stage), project.compiled_for(stage)),
        granted=granted_by(project) if stage.granted else {},
        earlier=known,
    )


def granted_by(project: Project) -> dict[str, Any]:
    """The decision that a release rests on, as in RELEASE.json."""
    return {**granted(project), "profile_sha256": granted_digests(project)["profile"]}


def _hook(project: Project, stage: Stage) -> StageHook | None:
    if stage.on_save is None:
        return None
    seen_as = project.stage(stage.on_save.stage)
    return StageHook(
        stage.on_save.factory,
        seen_as.name,
        seen_as.slice,
        _inputs(project, seen_as),
        _folders(project, seen_as),
    )


def _inputs(project: Project, stage: Stage) -> dict[str, Path]:
    folders = {name: project.root / name / DATA for name in stage.inputs}
    return {name: folder for name, folder in folders.items() if folder.is_dir()}


def _folders(project: Project, stage: Stage) -> dict[str, Path]:
    """ctx.external: media roots by source, the input that made media, "evaluations" for a hook's stage."""
    folders = {
        key.removeprefix(SOURCES): path for key, path in external(project, stage).items() if key.startswith(SOURCES)
    }
    if made := project.media_for(stage):
        folders[made] = project.root / made / DATA
    if any(one.on_save is not None and one.on_save.stage == stage.name for one in project.stages):
        folders["evaluations"] = project.staging / f"work-{stage.name}-evaluations"
        folders["evaluations"].mkdir(parents=True, exist_ok=True)
    return folders


def _settled(project: Project, stage: Stage, before: Definition) -> tuple[Definition, str]:
    """The definition to publish under, after the body ran.

    Inputs, media or profile that changed meanwhile void the attempt. Code that changed does not: nobody wants
    to lose a night's training to an edit; but it is not known which version ran, so its units are marked and
    the next run rebuilds.
    """
    _look_again(project, stage)
    code = project.read_code()
    after = define(project, stage, code)
    code.save()
    moved = [
        f"{part} {name}"
        for part in ("inputs", "external", "packages")
        for name in after[part]
        if after[part][name] != before[part].get(name)
    ]
    if moved:
        raise UserError(
            "changed while the stage ran, so its result was dropped",
            where=f"stage {stage.name}",
            found=", ".join(moved),
            fix="run doit again",
        )
    edited = {name for name in {*before["code"], *after["code"]} if before["code"].get(name) != after["code"].get(name)}
    if not edited:
        return before, ""
    marked = {name: EDITED_WHILE_RUNNING if name in edited else value for name, value in before["code"].items()}
    warning = f"{', '.join(sorted(edited))} {EDITED_WHILE_RUNNING}; the next run builds it again"
    return {**before, "code": marked}, warning


def _details(run_id: str, start: str, log: Path, info: dict[str, Any]) -> dict[str, Any]:
    return {
        "builder": {"id": "mmpt", "version": mmpt.__version__},
        "metadata": {"invocationId": run_id, "startedOn": start, "finishedOn": _now()},
        "machine": machine(),
        "byproducts": [{"name": f"logs/{log.name}", "digest": {"sha256": sha256_file(log)}}],
        "info": info,
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _context(torch: bool) -> BaseContext:
    if torch:
        multiprocessing.set_forkserver_preload(PRELOADED)
    return multiprocessing.get_context("forkserver" if torch else "spawn")


def _run(job: Job, watch: Watch, turn: Turn, ends_within: float) -> dict[str, Any]:
    """Start the child, follow it to its end, return its run-dependent numbers."""
    os.environ.update(process_environment(job.threads))
    context: Any = _context(job.setting.torch)
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=run_job, args=(job, theirs), name=job.name)
    _keep_logs(job.log)
    try:
        with _no_main(), out_of_reach():
            child.start()
        if job.setting.torch:
            FORKED.add(child.pid)
        theirs.close()
        end = _follow(child, ours, watch, turn)
        turn.wait([child.sentinel])
        child.join()
    except BaseException:
        _stop(child, ends_within)
        raise
    finally:
        if child.pid is not None:
            _kill_group(child.pid)  # a body may have left processes of its own
        ours.close()
    return _conclude(job, end, child.exitcode)


@contextlib.contextmanager
def out_of_reach() -> Iterator[None]:
    """What is started inside does not get Ctrl-C, which a terminal sends to all: it would say where in an import it was
    interrupted. A stage lets signals in again in its own process group, where what is forwarded reaches it.
    """
    resource_tracker.ensure_running()  # multiprocessing's own start of it would let the signal in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """multiprocessing imports the main module in every child; doit's is of no use there and costs 0.15 s."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _follow(
    child: multiprocessing.process.BaseProcess, pipe: Connection, watch: Watch, turn: Turn
) -> dict[str, Any] | None:
    """Messages until the last one; None if the child ended without it."""
    on_progress, on_silence = watch
    while True:
        ready = turn.wait([pipe, child.sentinel], LOOKS_EVERY)
        if not ready:
            on_silence()
            continue
        if pipe not in ready and not pipe.poll():
            return None
        try:
            message = json.loads(pipe.recv_bytes())
        except EOFError:
            return None
        if "end" in message:
            return message
        on_progress(*message["progress"])


def _conclude(job: Job, end: dict[str, Any] | None, exit_code: int | None) -> dict[str, Any]:
    if end is not None and end["end"] == "ok":
        return end["info"]
    if end is not None and end["end"] != "broke":
        raise StageError(end["end"], end["text"])
    if end is not None:
        what = end["text"]
    elif exit_code is not None and exit_code < 0:
        hint = KILLED.get(-exit_code, "")
        what = f"killed by {signal.Signals(-exit_code).name}{hint}"
    else:
        what = f"ended with code {exit_code} before its body returned"
    raise StageError("broke", f"{what}\n  log: {job.log}\n{_tail(job.log)}")


def _keep_logs(log: Path) -> None:
    """Make room for the log of a new attempt: slow.log becomes slow.1.log, and so on for the last few."""
    kept = [log, *(log.with_suffix(f".{age}.log") for age in range(1, KEPT_LOGS + 1))]
    for newer, older in reversed(list(itertools.pairwise(kept))):
        if newer.exists():
            os.replace(newer, older)


def forward_signals() -> None:
    """Let SIGTERM and SIGHUP stop a run as Ctrl-C does: the stage is asked to end, what is finished stays.

    A signal that is ignored stays so: that is how nohup lets a run outlive its terminal.
    """
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _interrupt)


def _interrupt(signum: int, _: Any) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(signum).name)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:] if log.exists() else []
    return "\n".join(f"  | {line}" for line in lines)


def _stop(child: multiprocessing.process.BaseProcess, within: float) -> None:
    """End a child that the build gives up on, and what it started: ask, wait `within` seconds, insist."""
    if child.pid is None:
        return
    end = time.monotonic() + GRACE
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGTERM)  # it may have no group of its own yet
    asked = _kill_group(child.pid, signal.SIGTERM)
    child.join(min(within, GRACE))
    if child.is_alive() and within > GRACE:
        told = f"{child.name} may save for up to {within:.0f} s; Ctrl-C again ends it at once"
        print(told, file=sys.stderr, flush=True)
        child.join(within - GRACE)
    while asked and time.monotonic() < end and _kill_group(child.pid, 0):
        time.sleep(0.01)
    if child.is_alive():
        os.kill(child.pid, signal.SIGKILL)
        child.join(GRACE)


def _kill_group(pid: int, signum: int = signal.SIGKILL) -> bool:
    """Signal the process group of a child; whether there was one."""
    try:
        os.killpg(pid, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _short_socket_folder() -> None:
    """Have multiprocessing put its sockets where their names fit: a Unix socket's path has 107 bytes at most.

    TMPDIR on a cluster's scratch disk may be longer than that; stages keep it for everything else.
    """
    try:
        asked = tempfile.gettempdir()
    except FileNotFoundError as error:  # a container whose root is read-only
        raise UserError(
            "no folder for temporary files can be written",
            where="TMPDIR",
            found=error.strerror,
            fix="set it to a folder that can be written",
        ) from None
    if len(os.fsencode(asked)) <= LONGEST_TMPDIR:
        return
    short = next((one for one in SHORT_TMPDIRS if os.access(one, os.W_OK | os.X_OK)), None)
    if short is None:
        raise UserError(
            "the folder for temporary files has too long a name for a socket",
            where="TMPDIR",
            found=asked,
            expected=f"at most {LONGEST_TMPDIR} bytes",
            fix="set TMPDIR to a shorter folder",
        )
    tempfile.tempdir = short
    try:
        multiprocessing.util.get_temp_dir()  # made once, and kept by multiprocessing
    finally:
        tempfile.tempdir = asked


def give_up_importing() -> None:
    """End the process that torch stages are forked from where it has forked none yet.

    A stage that waits for its imports would let an interrupted run wait, too.
    """
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None and not FORKED:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def warm_up(threads: int) -> None:
    """Let the process that torch stages are forked from import torch while stages without torch still run."""
    os.environ.update(process_environment(threads))
    _short_socket_folder()
    multiprocessing.set_forkserver_preload(PRELOADED)
    with _no_main(), out_of_reach():
        forkserver.ensure_running()
