"""What torchrun starts in a test: a training of 15 steps in which ranks end themselves, or none does.

    python -m torch.distributed.run .. -m tests.train.rank_job ROOT NAME DEATHS

DEATHS: [[step, rank, how], ..] as JSON: the first incarnation dies of the first, the second of the second, ..
how: KILL or TERM, a signal in a step; SAVE, SIGTERM when a checkpoint is written and not yet published; ALL, SIGTERM to
torchrun.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from mmpt.model import checkpoints
from mmpt.train.distributed import Ranks
from mmpt.train.loop import Hooks
from tests.train.rank_work import PATIENCE, run

STEPS, MEASURED = 15, (7, 12)


def main(root: Path, name: str, deaths: list[list]) -> None:
    torch.set_num_threads(1)
    incarnation = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    with Ranks.from_environment() as ranks:
        step_, rank, how = (deaths[incarnation : incarnation + 1] or [(None, None, None)])[0]

        def measure(step):
            if (step, ranks.rank) == (step_, rank) and how != "SAVE":
                os.kill(
                    os.getppid() if how == "ALL" else os.getpid(), signal.SIGKILL if how == "KILL" else signal.SIGTERM
                )
                time.sleep(PATIENCE)
            return {"step": step}

        publish = checkpoints.publish_folder

        def publish_folder(staging, folder):
            if how == "SAVE" and folder.name == f"step_{step_}":
                os.kill(os.getpid(), signal.SIGTERM)
            publish(staging, folder)

        checkpoints.publish_folder = publish_folder

        resumed = root / f"{name}.resumed"
        hooks = Hooks(
            measure=measure,
            measure_at=MEASURED,
            on_resume=lambda step: resumed.open("a").write(f"{step}\n") and None,
        )
        run(root, name, ranks, steps=STEPS, save_every=5, log_every=2, hooks=hooks)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
