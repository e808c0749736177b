"""What slurm runs in each task of a job: one worker, in a process of its own with torchrun's variables set.

When slurm warns that the time is over or the job must give way, submitit queues the job again and ends it;
its workers then go on from what is there.
"""

from __future__ import annotations

import os
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
        code = subprocess.run(words, env={**os.environ, **told}, check=False).returncode
        if code != 0:  # a task that fails ends the others of its job
            raise RuntimeError(f"worker {there.rank} ended with code {code}")
