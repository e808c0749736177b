"""`python -m mmpt.launch.agent FOLDER WORDS..`: torchrun, which starts and watches the workers here.

What took a worker that could not tell itself (a signal) is reported for it; the rest of torchrun's farewell is
left out, because it would hide the worker's own last lines.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mmpt.launch.errors import how_lost
from mmpt.launch.reports import Reports
from mmpt.launch.worker import STARTER


def main(folder: str, words: list[str]) -> int:
    os.environ[STARTER] = str(os.getpid())
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun(words)
    except ChildFailedError as error:
        rank, lost = error.get_first_failure()
        Reports(Path(folder)).died(how_lost(rank, lost.exitcode))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
