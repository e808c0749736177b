"""What torchrun starts in a test: a training of 15 steps in which ranks kill themselves, or none does.

    python -m torch.distributed.run .. -m tests.train.rank_job ROOT NAME DEATHS

DEATHS: [[step, rank], ..] as JSON: the first incarnation dies at the first, the second at the second, ..
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from mmpt.train.loop import Hooks
from mmpt.train.ranks import Ranks
from tests.train.rank_work import run

STEPS, MEASURED = 15, (7, 12)


def main(root: Path, name: str, deaths: list[list[int]]) -> None:
    torch.set_num_threads(1)
    incarnation = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    with Ranks.from_environment() as ranks:

        def measure(step):
            if deaths[incarnation : incarnation + 1] == [[step, ranks.rank]]:
                os.kill(os.getpid(), signal.SIGKILL)
            return {"step": step}

        resumed = root / f"{name}.resumed"
        hooks = Hooks(
            measure=measure,
            measure_at=MEASURED,
            on_resume=lambda step: resumed.open("a").write(f"{step}\n") and None,
        )
        run(root, name, ranks, steps=STEPS, save_every=5, log_every=2, hooks=hooks)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
