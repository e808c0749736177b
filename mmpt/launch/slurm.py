"""Workers as a slurm job, through submitit. The job outlives this process: a later run finds it.

    work/launch/<part>/slurm.json     {"job", "name"}: written once the job is queued
                       slurm/         submitit's files and the workers' logs, <job>_<rank>_log.out and .err

A job belongs to a stage and its fingerprint, as the work folder does. Whether it has ended well is said by
its workers' reports; slurm is asked only whether the job is still there (slurm_queue.py). The work folder must
lie on a file system that the cluster's machines share.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import time
from dataclasses import replace
from typing import Any

from mmpt.launch import slurm_queue
from mmpt.launch.errors import GOES_ON, WorkersFailed, raise_refusal
from mmpt.launch.job import WorkerJob
from mmpt.launch.reports import Reports
from mmpt.launch.slurm_queue import QUEUED, SILENT, State
from mmpt.store.canonical import read_json, write_json
from mmpt.store.errors import UserError
from mmpt.store.stage import StageContext

# Seconds between two looks at the reports, and between two questions to slurm: the first, and the longest.
LOOK = (0.1, 1.0)
ASK = (0.5, 30.0)
SETTLING = 2.0  # seconds until a job's last files are seen here
SETTLING_WELL = 90.0  # the same for a job that slurm calls completed: NFS may hide new files for a minute
WARNING = 90  # seconds before a job's end at which its tasks are warned
LAST_LINES = 12
PASSED_ON = ("partition", "account", "qos", "constraint", "cpus_per_task", "gpus_per_node", "mem_gb")
# submitit hides slurm's variables from what it submits. These are the user's or the site's, not a job's.
KEPT = (
    *("SLURM_CONF", "SLURM_JWT", "SUBMITIT_PREEMPT_SIGNAL"),
    *("SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_QOS"),
)


def run(ctx: StageContext, job: WorkerJob) -> None:
    """Submit a job's workers, or find those that are there, and wait for their end.

    Raises:
        UserError: submitit or slurm are missing, slurm refuses the job, or a worker's, in its words.
        WorkersFailed: the job was cancelled, or failed more often than the profile allows.
    """
    submitit, reports, name = _submitit(), Reports(job.folder), _name(job)
    queued, tries = _found(ctx, job), 0
    stood = queued is not None and not _ends(slurm_queue.state(queued, name))
    while True:
        if queued is None:
            reports.clear()
            queued, stood = _submit(submitit, ctx, job), True
        state = JobWatch(ctx, reports, queued, name).wait()
        if reports.complete():
            slurm_queue.wait_until_over(queued, name, SETTLING)  # its tasks still write beside the reports
            (job.folder / QUEUED).unlink()
            return
        slurm_queue.cancel(queued, name)  # tasks that wait for one that failed
        _log_ends(ctx, job, queued)
        (job.folder / QUEUED).unlink()  # what it said has been shown; the next run starts from the beginning
        if stood and state.word == "CANCELLED":
            raise WorkersFailed(f"slurm job {queued} was cancelled; {GOES_ON}")
        raise_refusal(reports)
        lost = f"slurm job {queued}: {_lost(reports, state)}"
        if tries == job.launcher.restarts:
            raise WorkersFailed(f"{lost}, given up after {tries} restarts; {GOES_ON}")
        tries += 1
        ctx.log(f"{lost}; submitted again, {tries} of {job.launcher.restarts}")
        queued = None


def _ends(state: State) -> bool:
    return state.over or state.word == "COMPLETING"


def _lost(reports: Reports, state: State) -> str:
    said = next((end.text for end in reports.ends() if end.status != "ok"), reports.death())
    how = f"it ended as {state.word}" if state.over and state.word else "it is gone"
    return said or f"{how}, and its result is not there"


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
    found = slurm_queue.find(name)
    if found is not None:
        write_json(path, {"job": found, "name": name})
        ctx.log(f"slurm job {found} has this stage's name: watching it")
    return found


def _submit(submitit: Any, ctx: StageContext, job: WorkerJob) -> str:
    from mmpt.launch.slurm_task import Task

    asked = dict(job.launcher.slurm)
    nodes, kept = asked.get("nodes", 1), {name: os.environ[name] for name in KEPT if name in os.environ}
    # A cluster need not pass on the environment of the process that submits.
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
            signal_delay_s=min(WARNING, 60 * asked["time"] // 4),
            additional_parameters={"requeue": True, **asked.get("more", {})},  # else a site may forbid it
            **{key: asked[key] for key in PASSED_ON if key in asked},
        )
        with submitit.helpers.clean_env():
            os.environ.update(kept)
            queued = executor.submit(Task(str(job.write()))).job_id
    except (RuntimeError, OSError) as error:  # no slurm here, or slurm's own refusal
        said = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Try ")]
        raise UserError(
            "slurm took no job", where="launcher.slurm", found=said[-1] if said else type(error).__name__
        ) from None
    write_json(job.folder / QUEUED, {"job": queued, "name": _name(job)})
    ctx.log(f"submitted as slurm job {queued}; it goes on if doit ends (scancel {queued} stops it)")
    return queued


class JobWatch:
    """Follows one job to its end."""

    def __init__(self, ctx: StageContext, reports: Reports, queued: str, name: str):
        self.ctx, self.reports, self.queued, self.name = ctx, reports, queued, name
        self.state = State(SILENT)

    def wait(self) -> State:
        """Until all workers have ended well, one has not, or the job is over; what slurm said last."""
        look, (pause, longest) = LOOK[0], ASK
        ask_at = 0.0
        while not self.reports.complete():
            failed = self._failed()
            if failed == "broke":
                time.sleep(SETTLING)  # what ended it may have ended, or queued again, the whole job
            if failed or time.monotonic() >= ask_at:
                self._ask()
                ask_at, pause = time.monotonic() + pause, min(2 * pause, longest)
            if self.state.over and self._settled():
                break
            if failed and self._failed() and self.state.word not in ("COMPLETING", SILENT):
                break
            self._tell()
            time.sleep(look)
            look = min(1.2 * look, LOOK[1])
        return self.state

    def _ask(self) -> None:
        before, self.state = self.state, slurm_queue.state(self.queued, self.name)
        if self.state.word == SILENT:
            self.state = replace(self.state, restarts=before.restarts)
        if str(self.state) != str(before):
            self.ctx.log(f"slurm job {self.queued}: {self.state}")

    def _failed(self) -> str:
        """How the first worker ended that ended badly since slurm last queued the job, or ""."""
        ends = [end for end in self.reports.ends() if end.restart >= self.state.restarts]
        return next((end.status for end in ends if end.status != "ok"), "")

    def _settled(self) -> bool:
        """Wait for reports that are written but not seen here yet. False if the job is not over after all: one
        that is queued again is COMPLETED for a moment.
        """
        end = time.monotonic() + (SETTLING_WELL if self.state.word == "COMPLETED" else SETTLING)
        while self.state.over and not self.reports.complete() and time.monotonic() < end:
            time.sleep(LOOK[1])
            self._ask()
        return self.state.over

    def _tell(self) -> None:
        done, total, text = self.reports.progress()
        waits = f"slurm job {self.queued}: {self.state}" if self.state.word != "RUNNING" else ""
        self.ctx.progress(done, max(1, total), waits or text or f"slurm job {self.queued}")


def _log_ends(ctx: StageContext, job: WorkerJob, queued: str) -> None:
    """The last lines of the workers' logs, for readers of the stage's log."""
    for path in sorted((job.folder / "slurm").glob(f"{queued}_*_log.*")):
        if lines := path.read_text(errors="replace").splitlines()[-LAST_LINES:]:
            ctx.log(f"{path}:")
            for line in lines:
                ctx.log(f"  {line}")
