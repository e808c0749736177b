"""Workers on this machine, started and watched by torchrun: a dead one has all of them started again.

They live in the stage's process group, or die with the process that started them, so they end when the stage does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from mmpt.launch.errors import GOES_ON, WorkersFailed, raise_failure, raise_refusal
from mmpt.launch.job import WorkerJob
from mmpt.launch.reports import Reports
from mmpt.launch.worker import PATIENCE, WORKING
from mmpt.store.lock import hold
from mmpt.store.stage import StageContext

LOOK_EVERY = 0.1  # seconds
GRACE = 10.0  # seconds between asking torchrun to end and ending it


def run(ctx: StageContext, job: WorkerJob) -> None:
    """Run a job's workers to their end.

    Raises:
        UserError: of a worker, in its words.  WorkersFailed: they died more often than the profile allows.
    """
    reports = Reports(job.folder)
    # Workers of a run that was killed may need a moment to be gone.
    os.close(hold(job.folder / WORKING, PATIENCE))
    reports.clear()
    process = subprocess.Popen(_words(job), env={**os.environ, **job.environment()})
    try:
        while process.poll() is None:
            if (told := reports.progress())[1]:
                ctx.progress(*told)
            raise_refusal(reports)
            time.sleep(LOOK_EVERY)
    finally:
        _end(process)
    raise_failure(reports)
    if process.returncode != 0 or not reports.complete():
        lost = reports.death() or f"torchrun ended with code {process.returncode}"
        raise WorkersFailed(f"{lost}, given up after {job.launcher.restarts} restarts; {GOES_ON}")


def _words(job: WorkerJob) -> list[str]:
    return [
        *(sys.executable, "-m", "mmpt.launch.agent", str(job.folder)),
        *("--standalone", "--local-addr", "127.0.0.1"),
        *("--nproc-per-node", str(job.launcher.processes or "gpu")),
        *("--max-restarts", str(job.launcher.restarts)),
        *("-m", "mmpt.launch.worker", str(job.write())),
    ]


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.terminate()  # torchrun passes it on
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
