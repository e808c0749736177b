"""Workers by torchrun: started, watched, started again, and never left behind."""

import re
import signal

import pytest

from tests.launch.conftest import kill, processes_below

TWO = "{kind: torchrun, processes: 2, restarts: 1}"
BUILT = 0  # exit code: the stage is there, and its gates pass
SQUARES = [0, 1, 4, 9, 16]


def test_two_workers_do_what_one_process_does_and_the_receipt_says_so(spread):
    project = spread(TWO)
    outcome = project.doit("shards")
    assert outcome.code == BUILT and project.squares() == SQUARES, (outcome, project.log)
    assert set(re.findall(r"piece (\d) by (\d) of 2", project.log)) == {(str(n), str(n % 2)) for n in range(5)}
    info = project.receipt()["runDetails"]["info"]
    assert info["world"] == 2
    assert {**info["launcher"], "peak_memory_mib": len(info["launcher"]["peak_memory_mib"])} == {
        "kind": "torchrun",
        "processes": 2,
        "restarts": 0,
        "peak_memory_mib": 2,
    }
    project.edit("smoke.yaml", TWO, "{kind: local, processes: 1}")
    again = project.doit("shards")
    assert (again.code, again.ran) == (BUILT, [])  # a launcher makes nothing stale
    assert "launcher" not in str(project.receipt()["buildDefinition"])


def test_workers_that_keep_dying_are_given_up_with_what_took_them(spread):
    project = spread(TWO)
    project.edit("smoke.yaml", "how: well", "how: die")
    outcome = project.doit("shards")
    assert outcome.code == 1 and "BROKE" in outcome.text
    assert "rank 1 was killed by SIGKILL (out of memory?), given up after 1 restarts" in outcome.text
    assert "doit goes on from there" in outcome.text
    project.edit("smoke.yaml", "how: die", "how: well")
    assert project.doit("shards").code == BUILT


def test_a_worker_that_breaks_shows_its_last_lines(spread):
    project = spread("{kind: torchrun, processes: 2, restarts: 0}")
    project.edit("smoke.yaml", "how: well", "how: break")
    outcome = project.doit("shards")
    assert outcome.code == 1 and "rank 1: RuntimeError: the second worker went wrong" in outcome.text
    assert "  | RuntimeError: the second worker went wrong" in outcome.text, outcome


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_a_build_that_is_stopped(spread, signum):
    project = spread(TWO)
    project.edit("smoke.yaml", "seconds: 0.0, how", "seconds: 30.0, how")
    process = project.start("shards")
    project.wait_for(lambda: len(set(re.findall(r"by (\d) of 2", project.log))) == 2)
    assert len([line for line in processes_below(project.folder) if "mmpt.launch.worker" in line]) >= 2
    kill(process, signum)
    project.wait_for(lambda: not processes_below(project.folder), 10.0)
