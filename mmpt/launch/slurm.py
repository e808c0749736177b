"""Workers as a slurm job, through submitit. The job outlives this process: whoever comes back finds it.

    work/launch/<part>/slurm.json     {"job", "name"}: written once the job is queued
                       slurm/         submitit's files and the workers' logs, <job>_<rank>_log.out and .err

A job belongs to a stage and its fingerprint, as the work folder does. Whether it has ended well is said by
its workers' reports; slurm is asked only whether the job is still alive. The work folder must lie on a file
system that the cluster's machines share.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

from mmpt.launch.failed import GOES_ON, WorkersFailed, raise_refusal
from mmpt.launch.job import WorkerJob
from mmpt.launch.reports import Reports
from mmpt.store.canonical import read_json, write_json
from mmpt.store.errors import UserError
from mmpt.store.stage import StageContext

QUEUED = "slurm.json"
LOOK_EVERY = 1.0  # seconds between two looks at the reports
ASK_FIRST = 2.0  # seconds until slurm is asked whether a job is alive, doubled each time
ASK_EVERY = 30.0  # up to this
SETTLING = 2.0  # seconds until the last files of a job are seen here
LAST_LINES = 12
PASSED_ON = ("partition", "account", "qos", "constraint", "cpus_per_task", "gpus_per_node", "mem_gb")


def run(ctx: StageContext, job: WorkerJob) -> None:
    """Submit a job's workers, or find those that are there, and wait for their end.

    Raises:
        UserError: submitit or slurm are missing, slurm refuses the job, or a worker's, in its words.
        WorkersFailed: the job failed more often than the profile allows.
    """
    submitit, reports = _submitit(), Reports(job.folder)
    _cancel_others(ctx, job)
    queued, tries = _found(ctx, job), 0
    while True:
        if queued is None:
            reports.clear()
            queued = _submit(submitit, ctx, job)
        _wait(ctx, reports, queued)
        if reports.complete():
            return
        _cancel(queued)  # tasks that wait for one that failed
        _log_ends(ctx, job, queued)
        (job.folder / QUEUED).unlink()  # what it said is told now; the next run begins anew
        raise_refusal(reports)
        lost = next(
            (end.text for end in reports.ends() if end.status != "ok"),
            "it is gone, and its result is not there",
        )
        if tries == job.launcher.restarts:
            raise WorkersFailed(f"slurm job {queued}: {lost}, given up after {tries} restarts; {GOES_ON}")
        tries += 1
        ctx.log(f"slurm job {queued}: {lost}; submitted again, {tries} of {job.launcher.restarts}")
        queued = None


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            "submitit is not installed",
            where="launcher.kind",
            found=str(error),
            fix='pip install "mmpt[slurm]", or choose local or torchrun',
        ) from None
    return submitit


def _name(job: WorkerJob) -> str:
    """Of stage, fingerprint and work folder: two clones may build the same."""
    place = hashlib.sha256(os.fsencode(job.work.resolve())).hexdigest()[:8]
    return f"mmpt-{job.work.name.removeprefix('work-')}-{place}"


def _found(ctx: StageContext, job: WorkerJob) -> str | None:
    """The job of an earlier run of the build, alive or ended, by its id."""
    path, name = job.folder / QUEUED, _name(job)
    if path.exists():
        queued = read_json(path)["job"]
        ctx.log(f"slurm job {queued} was submitted by an earlier run: watching it")
        return queued
    # A build that was killed between the submission and the note of it.
    listed = _slurm("squeue", "--noheader", "--me", "--name", name, "--format", "%A").stdout.split()
    if not listed:
        return None
    write_json(path, {"job": listed[0], "name": name})
    ctx.log(f"slurm job {listed[0]} has this stage's name: watching it")
    return listed[0]


def _submit(submitit: Any, ctx: StageContext, job: WorkerJob) -> str:
    from mmpt.launch.slurm_task import Task

    asked = dict(job.launcher.slurm)
    nodes = asked.get("nodes", 1)
    # A cluster need not pass on the environment of who submits.
    exports = [f"export {name}={shlex.quote(value)}" for name, value in job.environment().items()]
    try:
        executor = submitit.SlurmExecutor(job.folder / "slurm", max_num_timeout=job.launcher.restarts)
        executor.update_parameters(
            job_name=_name(job),
            time=asked["time"],
            nodes=nodes,
            ntasks_per_node=job.launcher.processes // nodes,
            setup=[*asked.get("setup", ()), *exports],
            srun_args=["--kill-on-bad-exit=1"],
            additional_parameters=asked.get("more", {}),
            **{key: asked[key] for key in PASSED_ON if key in asked},
        )
        with submitit.helpers.clean_env():
            queued = executor.submit(Task(str(job.write()))).job_id
    except (RuntimeError, OSError) as error:  # no slurm here, or slurm's own refusal
        said = [line for line in str(error).splitlines() if line.strip()]
        raise UserError(
            "slurm took no job", where="launcher.slurm", found=said[-1] if said else type(error).__name__
        ) from None
    write_json(job.folder / QUEUED, {"job": queued, "name": _name(job)})
    ctx.log(f"submitted as slurm job {queued}; it goes on if doit ends (scancel {queued} stops it)")
    return queued


def _wait(ctx: StageContext, reports: Reports, queued: str) -> None:
    """Until all workers have ended well, one has not, or the job is gone."""
    asked, pause = time.monotonic(), ASK_FIRST
    while not reports.complete() and all(end.status == "ok" for end in reports.ends()):
        done, total, text = reports.progress()
        ctx.progress(done, max(1, total), text or f"slurm job {queued}")
        time.sleep(LOOK_EVERY)
        if time.monotonic() - asked >= pause:
            asked, pause = time.monotonic(), min(2 * pause, ASK_EVERY)
            if not _alive(queued):
                time.sleep(SETTLING)
                return


def _alive(queued: str) -> bool:
    """Whether slurm still has the job in its queue; a slurm that cannot be asked does not end it."""
    answer = _slurm("squeue", "--noheader", "--jobs", queued, "--format", "%T")
    if answer.returncode == 0:
        return bool(answer.stdout.strip())
    return "invalid job id" not in answer.stderr.lower()


def _cancel(queued: str) -> None:
    if _alive(queued):
        _slurm("scancel", queued)


def _cancel_others(ctx: StageContext, job: WorkerJob) -> None:
    """End what earlier runs submitted for this stage with another fingerprint: nobody will gather it."""
    for path in job.work.parent.glob(f"work-{job.name}-*/launch/*/{QUEUED}"):
        if not path.is_relative_to(job.work):
            queued = read_json(path)["job"]
            _cancel(queued)
            path.unlink()
            ctx.log(f"slurm job {queued} was for another version of this stage: cancelled")


def _log_ends(ctx: StageContext, job: WorkerJob, queued: str) -> None:
    """The last lines of the workers' logs, for whoever reads the stage's."""
    for path in sorted((job.folder / "slurm").glob(f"{queued}_*_log.*")):
        lines = _tail(path)
        if lines:
            ctx.log(f"{path}:")
            for line in lines:
                ctx.log(f"  {line}")


def _tail(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-LAST_LINES:]


def _slurm(*words: str) -> subprocess.CompletedProcess[str]:
    """Ask slurm.

    Raises:
        UserError: its programs are not here.
    """
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(
            "there is no slurm here",
            where="launcher.kind",
            expected=f"{words[0]} on PATH",
            fix="start doit on a machine of the cluster, or choose local or torchrun",
        ) from None
