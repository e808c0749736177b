"""What slurm runs in each task of a job: one worker, in a process of its own with torchrun's variables set.

When slurm warns that the time is over or the job must give way, submitit queues the job again and ends it;
its workers then go on from what is there. Slurm gives that warning to every process of the job: the workers
must not die of it before the job is queued.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from submitit.helpers import Checkpointable, TorchDistributedEnvironment

from mmpt.launch.errors import how_lost
from mmpt.launch.reports import Reports
from mmpt.launch.worker import STARTER
from mmpt.store.errors import UserError


class Task(Checkpointable):
    """Called by submitit in every task.

    Args:
        job: path of JOB.json.
    """

    def __init__(self, job: str):
        self.job = job

    def __call__(self) -> None:
        there = TorchDistributedEnvironment()
        place = {
            "MASTER_ADDR": address(there.master_addr),
            "MASTER_PORT": there.master_port,
            "RANK": there.rank,
            "WORLD_SIZE": there.world_size,
            "LOCAL_RANK": there.local_rank,
            "LOCAL_WORLD_SIZE": there.local_world_size,
            STARTER: os.getpid(),
            "TORCHELASTIC_RESTART_COUNT": os.environ.get("SLURM_RESTART_COUNT", "0"),
        }
        told = {name: str(value) for name, value in place.items()}
        words = [sys.executable, "-m", "mmpt.launch.worker", self.job]
        code = run_undisturbed(words, {**os.environ, **told})
        if code == 0:
            return
        reports, lost = Reports(Path(self.job).parent), how_lost(there.rank, code)
        # Slurm's SIGTERM says that the job ends, not why.
        if code < 0 and code != -signal.SIGTERM and not reports.death():
            reports.died(lost)
        print(lost, file=sys.stderr, flush=True)
        sys.exit(1)  # a task that fails ends the others of its job; submitit would add its traceback


def run_undisturbed(words: list[str], environment: dict[str, str]) -> int:
    """A process's exit code; it does not hear slurm's warning, which is for the task.

    Slurm sends it to every process of a step. A worker that died of it would fail its task, and with it the job, before
    the first task has queued the job again. Workers end with their tasks.
    """
    warning = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")

    def ignore() -> None:
        signal.signal(warning, signal.SIG_IGN)

    return subprocess.run(words, env=environment, check=False, preexec_fn=ignore).returncode


def address(machine: str) -> str:
    """Where to reach a machine of the cluster; its name in slurm need not be known to the network."""
    try:
        socket.getaddrinfo(machine, None)
        return machine
    except OSError:
        words = ["scontrol", "--oneliner", "show", "node", machine]
        told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        found = re.search(r"\bNodeAddr=(\S+)", told)
        if found is None:
            raise UserError("scontrol names no address", where=f"node {machine}", found=told.strip()) from None
        return found[1]
