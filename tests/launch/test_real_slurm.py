"""The slurm launcher on a real slurm: two nodes that are daemons of this machine (slurm/real_cluster.sh)."""

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from mmpt.launch import launch, slurm_queue
from mmpt.launch.slurm_queue import State
from mmpt.store.launcher import Launcher
from tests.launch import parts
from tests.launch.conftest import kill
from tests.launch.test_slurm import BUILT, SQUARES, at_work, context, ended_well_once_it_said, let_go

ABSENT = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,  # slurm's pace: 2 minutes
    pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {' '.join(ABSENT)} (Debian: slurm-wlm, munge)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd wants to be root"),
    pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed"),
]
SCRIPT = Path(__file__).with_name("slurm") / "real_cluster.sh"
TWO = "{kind: slurm, processes: 2, restarts: 1, slurm: {time: 5, nodes: 2, partition: small}}"


class Cluster:
    def __init__(self, folder: Path):
        self.folder = folder

    def tell(self, what: str, *more: str) -> None:
        subprocess.run([SCRIPT, what, self.folder, *more], check=True, timeout=120)

    def job(self, project) -> tuple[str, str]:
        (note,) = project.root.glob(".staging/work-shards-*/launch/part/slurm.json")
        told = json.loads(note.read_text())
        return told["job"], told["name"]


@pytest.fixture(scope="module")
def daemons():
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # short: a socket lies in it
    cluster = Cluster(folder)
    try:
        cluster.tell("start")
        yield cluster
    finally:
        cluster.tell("stop")
        shutil.rmtree(folder)


@pytest.fixture
def cluster(daemons, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(daemons.folder / "slurm.conf"))
    return daemons


def test_a_worker_on_each_of_two_nodes_and_the_stage_gathers(spread, cluster):
    project = spread(TWO)
    outcome = project.doit("shards")
    assert outcome.code == BUILT and project.squares() == SQUARES, (outcome, project.log)
    assert project.receipt()["runDetails"]["info"]["launcher"]["processes"] == 2


def test_workers_of_two_nodes_are_told_an_address_that_exists(tmp_path, cluster):
    ctx = context(tmp_path, Launcher("slurm", 2, slurm={"time": 5, "nodes": 2}))
    launch(ctx, parts.note_place)
    places = [json.loads((ctx.work / f"place-{rank}.json").read_text()) for rank in range(2)]
    assert [place["LOCAL_RANK"] for place in places] == ["0", "0"]
    addresses = {place["MASTER_ADDR"] for place in places}
    assert len(addresses) == 1 and socket.getaddrinfo(addresses.pop(), None)


def test_a_job_outlives_doit_and_is_found_again(spread, cluster):
    project = spread(TWO)
    kill(at_work(project))
    job, name = cluster.job(project)
    assert slurm_queue.state(job, name) == State("RUNNING", "None")
    ended_well_once_it_said(project, f"slurm job {job} was submitted by an earlier run: watching it")


def test_a_job_that_someone_cancels_is_not_submitted_again(spread, cluster):
    project = spread(TWO)
    process = at_work(project)
    job, _ = cluster.job(project)
    subprocess.run(["scancel", job], check=True)
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and f"slurm job {job} was cancelled; what is done stays" in text, text
    let_go(project)
    assert project.doit("shards").code == BUILT and project.squares() == SQUARES


def test_a_job_that_nobody_wants_any_more_is_cancelled(spread, cluster):
    project = spread("{kind: local}")
    assert project.doit("shards").code == BUILT
    project.edit("smoke.yaml", "{kind: local}", TWO)
    kill(at_work(project))
    job, name = cluster.job(project)
    project.edit("smoke.yaml", "how: wait", "how: well")
    outcome = project.doit("shards")
    assert f"slurm job {job} of an earlier run is not wanted any more: cancelled" in outcome.text, outcome
    assert slurm_queue.state(job, name).word == "CANCELLED"


def test_a_killed_worker_costs_a_job_and_no_result(spread, cluster):
    project = spread(TWO)
    project.edit("smoke.yaml", "how: well", "how: die once")
    assert project.doit("shards").code == BUILT and project.squares() == SQUARES, project.log
    assert "rank 1 was killed by SIGKILL (out of memory?); submitted again, 1 of 1" in project.log


def test_a_partition_that_is_not_there_is_one_line(spread, cluster):
    outcome = spread(TWO.replace("small", "nowhere")).doit("shards")
    assert outcome.code == 2 and "slurm took no job; found sbatch: error:" in outcome.text, outcome
    assert "Invalid partition name specified" in outcome.text


def test_a_controller_that_is_down_is_one_line_and_ends_no_job(spread, cluster):
    project = spread(TWO)
    kill(at_work(project))
    job, name = cluster.job(project)
    with stopped(cluster):
        assert str(slurm_queue.state(job, name)).startswith("slurm does not answer (")
        project.edit("smoke.yaml", TWO, "{kind: local}")
        outcome = project.doit("shards")
        assert outcome.code == 2 and "a slurm job could not be cancelled" in outcome.text, outcome
    project.edit("smoke.yaml", "{kind: local}", TWO)
    ended_well_once_it_said(project, f"slurm job {job} was submitted by an earlier run: watching it")


@contextlib.contextmanager
def stopped(cluster):
    cluster.tell("controller", "stop")
    try:
        yield
    finally:
        cluster.tell("controller", "start")
