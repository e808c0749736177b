"""A worker in a slurm task and the signals that slurm sends to all of a step's processes."""

import os
import signal
import sys

import pytest

pytest.importorskip("submitit")

from mmpt.launch.slurm_task import run_undisturbed

KILLS = "import os, signal; os.kill(os.getpid(), signal.SIG{}); print('still here')"


@pytest.mark.parametrize("name, code", [("USR2", 0), ("USR1", -signal.SIGUSR1)])
def test_a_warning_that_the_time_is_over_does_not_end_a_worker(name, code):
    assert run_undisturbed([sys.executable, "-c", KILLS.format(name)], dict(os.environ)) == code


def test_the_warning_is_the_one_that_submitit_was_told(monkeypatch):
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    assert run_undisturbed([sys.executable, "-c", KILLS.format("USR1")], dict(os.environ)) == 0
