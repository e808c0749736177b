"""One worker: `python -m mmpt.launch.worker JOB.json`, with its rank in torchrun's variables.

It calls the stage's part with its rank and tells how that ended; its exit code is 0 only where it ended well.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path

from mmpt.launch.job import Place, WorkerJob
from mmpt.launch.process_setup import failure, hook_of, peak_memory_mib, prepare, resolve
from mmpt.launch.reports import End, Reports
from mmpt.store.errors import UserError
from mmpt.store.lock import share
from mmpt.store.stage import StageContext

STARTER = "MMPT_STARTER"  # id of the process that started a worker, which must not outlive it
PR_SET_PDEATHSIG = 1
WORKING = "workers.lock"  # shared by the workers of a launch while they live
PATIENCE = 30.0  # seconds to wait for workers of an earlier launch to be gone


def die_with_starter() -> None:
    """End when the process that started this one ends, however it ends. torchrun gives each worker a session of
    its own, so that no signal to the stage's process group reaches it. Linux only.
    """
    starter = os.environ.get(STARTER)
    if starter is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(starter):  # it was gone before
        os.kill(os.getpid(), signal.SIGKILL)


def device_of(job: WorkerJob, place: Place) -> str:
    """The worker's own device.

    Raises:
        UserError: the machine has fewer GPUs than workers.
    """
    if job.device != "cuda":
        return job.device
    import torch

    count = torch.cuda.device_count()
    # A cluster may show each task its own GPU alone.
    index = 0 if job.launcher.kind == "slurm" and count == 1 else place.local_rank
    if index >= count:
        raise UserError(
            "more workers than GPUs",
            where="launcher.processes",
            found=f"worker {index} of a machine",
            expected=f"at most {count} workers there",
        )
    torch.cuda.set_device(index)
    return f"cuda:{index}"


def run(job: WorkerJob, place: Place) -> End:
    """Do this worker's part; how it ended."""
    restart = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    context: StageContext | None = None
    try:
        context = job.worker_context(device_of(job, place))
        context.on_log = lambda line: print(f"rank {place.rank}: {line}", flush=True)
        context.on_progress = Reports(job.folder).sink(place.rank)
        prepare(context, job.setting)
        if place.rank == 0:
            context.on_save = hook_of(context, job.setting.hook)
        resolve(job.part)(context, place.rank, place.world)
        status, text = "ok", ""
    except UserError as error:
        status, text = "refused", str(error)
    except BaseException as error:
        # Whatever a part raises is reported to the parent; its traceback is in the log.
        traceback.print_exc()
        status, text = failure(error)
    info = {**(context.run_info if context else {}), "peak_memory_mib": peak_memory_mib()}
    return End(place.rank, place.world, status, text, restart, info)


def main(words: list[str]) -> int:
    die_with_starter()
    job, place = WorkerJob.read(Path(words[0])), Place.from_environment()
    if job.launcher.kind == "torchrun":
        share(job.folder / WORKING, PATIENCE)
    end = run(job, place)
    Reports(job.folder).end(end)
    if end.status != "ok":
        # At once: an interpreter that ends in order waits for NCCL, and NCCL for the ranks that wait for this one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
