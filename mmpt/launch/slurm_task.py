"""What slurm runs in each task of a job: one worker, in a process of its own with torchrun's variables set.

When slurm warns that the time is over or the job must give way, submitit queues the job again and ends it;
its workers then go on from what is there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from submitit.helpers import Checkpointable, TorchDistributedEnvironment

from mmpt.launch.worker import STARTER


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
            "MASTER_ADDR": there.master_addr,
            "MASTER_PORT": there.master_port,
            "RANK": there.rank,
            "WORLD_SIZE": there.world_size,
            "LOCAL_RANK": there.local_rank,
            "LOCAL_WORLD_SIZE": there.local_world_size,
            STARTER: os.getpid(),
        }
        told = {name: str(value) for name, value in place.items()}
        words = [sys.executable, "-m", "mmpt.launch.worker", self.job]
        code = run_undisturbed(words, {**os.environ, **told})
        if code != 0:  # a task that fails ends the others of its job
            raise RuntimeError(f"worker {there.rank} ended with code {code}")


def run_undisturbed(words: list[str], environment: dict[str, str]) -> int:
    """A process's exit code; it does not hear slurm's warning, which is for the task.

    Slurm sends it to every process of a step. A worker that died of it would fail its task, and with it the job, before
    the first task has queued the job again. Workers end with their tasks.
    """
    warning = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")

    def ignore() -> None:
        signal.signal(warning, signal.SIG_IGN)

    return subprocess.run(words, env=environment, check=False, preexec_fn=ignore).returncode
