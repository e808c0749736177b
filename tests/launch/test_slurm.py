"""Workers as a slurm job that outlives the build: found again, gathered, submitted again, cancelled."""

import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from mmpt.launch import launch
from mmpt.store.errors import UserError
from mmpt.store.launcher import Launcher
from mmpt.store.stage import SliceView, StageContext
from tests.launch import parts
from tests.launch.conftest import kill

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None,
    reason="submitit is not installed: pip install 'mmpt[slurm]'",
)
TWO = "{kind: slurm, processes: 2, restarts: 1, slurm: {time: 5, partition: small}}"
BUILT, SQUARES = 20, [0, 1, 4, 9, 16]


class Slurm:
    """The cluster of a test: its jobs by id."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def jobs(self) -> dict[int, dict]:
        return {int(path.stem): json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"))}

    def ended(self, job: int) -> str:
        path = self.folder / f"{job}.ended"
        return path.read_text().strip() if path.exists() else ""

    def lose(self, job: int) -> None:
        """As when a machine of the cluster goes down."""
        os.killpg(self.jobs[job]["pid"], signal.SIGKILL)
        (self.folder / f"{job}.ended").write_text("NODE_FAIL")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    programs, state = tmp_path / "programs", tmp_path / "slurm"
    programs.mkdir(), state.mkdir()
    source = Path(__file__).with_name("slurm") / "fake_slurm.py"
    for name in ("sbatch", "srun", "squeue", "scontrol", "sacct", "scancel"):
        (programs / name).write_text(f"#!{sys.executable}\n{source.read_text()}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(state))
    cluster = Slurm(state)
    yield cluster
    for job in cluster.jobs:
        if not cluster.ended(job):
            cluster.lose(job)


def killed_while_it_works(project, slurm) -> None:
    """Start the build, kill it once its job works."""
    project.edit("smoke.yaml", "seconds: 0.0, how", "seconds: 1.0, how")
    process = project.start("shards")
    work = project.root / ".staging"
    project.wait_for(lambda: len(list(work.glob("work-shards-*/[0-9].json"))) >= 1)
    kill(process)
    assert list(slurm.jobs) == [100] and not slurm.ended(100)


def test_a_job_does_the_part_and_the_stage_gathers_it(spread, slurm):
    project = spread(TWO)
    outcome = project.doit("shards")
    assert outcome.code == BUILT and project.squares() == SQUARES, (outcome, project.log)
    assert "submitted as slurm job 100" in project.log
    assert slurm.jobs[100]["name"].startswith("mmpt-shards-")
    options = slurm.jobs[100]["options"]
    assert (options["partition"], options["time"], options["ntasks-per-node"]) == ("small", "5", "2")
    about = project.receipt()["runDetails"]["info"]["launcher"]
    assert (about["kind"], about["processes"]) == ("slurm", 2)


def test_a_job_that_still_works_is_found_again_by_a_build_that_was_killed(spread, slurm):
    project = spread(TWO)
    killed_while_it_works(project, slurm)
    outcome = project.doit("shards")
    assert outcome.code == BUILT and project.squares() == SQUARES, (outcome, project.log)
    assert "slurm job 100 was submitted by an earlier run: watching it" in project.log
    assert list(slurm.jobs) == [100]


def test_a_job_whose_number_was_not_noted_is_found_by_its_name(spread, slurm):
    project = spread(TWO)
    killed_while_it_works(project, slurm)
    (noted,) = project.root.glob(".staging/work-shards-*/launch/part/slurm.json")
    noted.unlink()
    assert project.doit("shards").code == BUILT
    assert "slurm job 100 has this stage's name" in project.log and list(slurm.jobs) == [100]


def test_a_job_that_ended_meanwhile_is_gathered(spread, slurm):
    project = spread(TWO)
    killed_while_it_works(project, slurm)
    project.wait_for(lambda: slurm.ended(100))
    started = time.monotonic()
    assert project.doit("shards").code == BUILT and project.squares() == SQUARES
    assert time.monotonic() - started < 2 and "had done all of it" in project.log
    assert list(slurm.jobs) == [100]


def test_a_lost_job_is_submitted_again_and_says_so(spread, slurm):
    project = spread(TWO)
    killed_while_it_works(project, slurm)
    slurm.lose(100)
    outcome = project.doit("shards")
    assert outcome.code == BUILT and project.squares() == SQUARES, (outcome, project.log)
    assert "slurm job 100: it ended as NODE_FAIL, and its result is not there; submitted again, 1 of 1" in project.log
    assert list(slurm.jobs) == [100, 101]


def test_a_job_of_another_version_of_the_stage_is_cancelled(spread, slurm):
    project = spread(TWO)
    killed_while_it_works(project, slurm)
    project.edit("smoke.yaml", "n: 5, seconds: 1.0", "n: 3, seconds: 0.0")
    outcome = project.doit("shards")
    assert outcome.code == BUILT and project.squares() == SQUARES[:3], (outcome, project.log)
    assert "slurm job 100 of an earlier run is not wanted any more: cancelled" in project.log
    assert slurm.ended(100) == "CANCELLED"


@pytest.mark.parametrize("how, code, said", [
    ("refuse", 2, "REFUSED: pieces.how: an odd piece; found refuse"),
    ("break", 1, "slurm job 101: RuntimeError: the second worker went wrong, given up after 1 restarts"),
])  # fmt: skip
def test_a_worker_s_failure_is_told_as_by_any_launcher(spread, slurm, how, code, said):
    project = spread(TWO)
    project.edit("smoke.yaml", "how: well", f"how: {how}")
    outcome = project.doit("shards")
    assert outcome.code == code and said in outcome.text, outcome
    assert how == "refuse" or "  | " in outcome.text


def test_what_was_refused_is_asked_again_once_it_is_mended(spread, slurm):
    project = spread(TWO)
    project.edit("smoke.yaml", "how: well", "how: refuse once")
    assert project.doit("shards").code == 2
    assert project.doit("shards").code == BUILT and project.squares() == SQUARES
    assert list(slurm.jobs) == [100, 101]


def test_slurm_s_own_refusal_is_one_line(spread, slurm):
    (slurm.folder / "broken").touch()
    outcome = spread(TWO).doit("shards")
    assert outcome.code == 2, outcome
    assert (
        "launcher.slurm: slurm took no job; found sbatch: error: invalid partition specified" in outcome.text
    )


def test_where_there_is_no_slurm_a_line_says_so(spread):
    outcome = spread(TWO).doit("shards")
    assert (
        outcome.code == 2 and "launcher.kind: there is no slurm here; expected squeue on PATH" in outcome.text
    )


def test_without_submitit_a_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r'submitit is not installed.*pip install "mmpt\[slurm\]"'):
        launch(context(tmp_path, Launcher("slurm", 2, slurm={"time": 1})), parts.note_place)


def context(folder: Path, launcher: Launcher) -> StageContext:
    (folder / "work-shards-abc").mkdir()
    return StageContext(
        "shards", SliceView({}, ()), {}, folder / "out", folder / "work-shards-abc", launcher=launcher
    )


def test_workers_on_several_machines_find_each_other(tmp_path, slurm, monkeypatch):
    monkeypatch.setenv("FAKE_NODES", "gpu[01-02]")
    ctx = context(tmp_path, Launcher("slurm", 4, slurm={"time": 1, "nodes": 2}))
    launch(ctx, parts.note_place)
    places = [json.loads((ctx.work / f"place-{rank}.json").read_text()) for rank in range(4)]
    assert {place["MASTER_ADDR"] for place in places} == {"gpu01"}
    assert len({place["MASTER_PORT"] for place in places}) == 1
    assert [place["LOCAL_RANK"] for place in places] == ["0", "1", "0", "1"]
    assert {(place["world"], place["OMP_NUM_THREADS"], place["PYTHONHASHSEED"]) for place in places} == {
        (4, "1", "0")
    }
