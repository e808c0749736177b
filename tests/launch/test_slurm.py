"""Workers as a slurm job that outlives the build: found again, gathered, submitted again, cancelled."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mmpt.launch import launch
from mmpt.launch import slurm as launcher
from mmpt.launch.reports import End, Reports
from mmpt.launch.slurm import JobWatch
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
BUILT, SQUARES = 0, [0, 1, 4, 9, 16]


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
        (programs / name).write_text(f"#!{sys.executable} -SE\n{source.read_text()}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(state))
    cluster = Slurm(state)
    yield cluster
    for job in cluster.jobs:
        if not cluster.ended(job):
            cluster.lose(job)


def at_work(project):
    """Start a build and wait until its job works; the job then waits for ``let_go``."""
    project.edit("smoke.yaml", "how: well", "how: wait")
    process = project.start("shards")
    project.wait_for(lambda: list(project.root.glob(".staging/work-shards-*/[0-9].json")))
    return process


def killed_while_it_works(project, slurm) -> None:
    kill(at_work(project))
    assert list(slurm.jobs) == [100] and not slurm.ended(100)


def wait_until(so) -> None:
    end = time.monotonic() + 60
    while not so():
        assert time.monotonic() < end
        time.sleep(0.02)


def let_go(project) -> None:
    (work,) = (path for path in project.root.glob(".staging/work-shards-*") if path.is_dir())
    (work / "go").touch()


def ended_well_once_it_said(project, said: str) -> None:
    process = project.start("shards")
    project.wait_for(lambda: said in project.log or process.poll() is not None)
    assert said in project.log, (process.communicate()[0], project.log)
    let_go(project)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == BUILT and project.squares() == SQUARES, (text, project.log)


def test_a_job_does_the_part_and_the_stage_gathers_it(spread, slurm, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", "/site/slurm.conf")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "7")  # of the job that doit itself runs in
    project = spread(TWO)
    outcome = project.doit("shards")
    assert outcome.code == BUILT and project.squares() == SQUARES, (outcome, project.log)
    assert "submitted as slurm job 100" in project.log
    assert slurm.jobs[100]["name"].startswith("mmpt-shards-")
    options = slurm.jobs[100]["options"]
    assert (options["partition"], options["time"], options["ntasks-per-node"]) == ("small", "5", "2")
    assert slurm.jobs[100]["environment"] == {"SLURM_CONF": "/site/slurm.conf"}
    about = project.receipt()["runDetails"]["info"]["launcher"]
    assert (about["kind"], about["processes"]) == ("slurm", 2)


def test_a_job_that_still_works_is_found_again_by_a_build_that_was_killed(spread, slurm):
    project = spread(TWO)
    killed_while_it_works(project, slurm)
    ended_well_once_it_said(project, "slurm job 100 was submitted by an earlier run: watching it")
    assert list(slurm.jobs) == [100]


def test_a_job_whose_number_was_not_noted_is_found_by_its_name(spread, slurm):
    project = spread(TWO)
    killed_while_it_works(project, slurm)
    (noted,) = project.root.glob(".staging/work-shards-*/launch/part/slurm.json")
    noted.unlink()
    ended_well_once_it_said(project, "slurm job 100 has this stage's name: watching it")
    assert list(slurm.jobs) == [100]


def test_a_job_that_ended_meanwhile_is_gathered(spread, slurm):
    project = spread(TWO)
    killed_while_it_works(project, slurm)
    let_go(project)
    project.wait_for(lambda: slurm.ended(100))
    assert project.doit("shards").code == BUILT and project.squares() == SQUARES
    assert "had done all of it" in project.log and list(slurm.jobs) == [100]


def test_a_lost_job_is_submitted_again_and_says_so(spread, slurm):
    project = spread(TWO)
    killed_while_it_works(project, slurm)
    slurm.lose(100)
    let_go(project)
    outcome = project.doit("shards")
    assert outcome.code == BUILT and project.squares() == SQUARES, (outcome, project.log)
    said = "slurm job 100: it ended as NODE_FAIL, and its result is not there; submitted again, 1 of 1"
    assert said in project.log and list(slurm.jobs) == [100, 101]


def test_a_job_of_another_version_of_the_stage_is_cancelled(spread, slurm):
    project = spread(TWO)
    killed_while_it_works(project, slurm)
    project.edit("smoke.yaml", "n: 5, seconds: 0.0, how: wait", "n: 3, seconds: 0.0, how: well")
    outcome = project.doit("shards")
    assert outcome.code == BUILT and project.squares() == SQUARES[:3], (outcome, project.log)
    assert "slurm job 100 of an earlier run is not wanted any more: cancelled" in project.log
    assert slurm.ended(100) == "CANCELLED"


def test_a_worker_s_failure_is_told_as_by_any_launcher(spread, slurm):
    project = spread(TWO)
    project.edit("smoke.yaml", "how: well", "how: break")
    outcome = project.doit("shards")
    said = "slurm job 101: RuntimeError: the second worker went wrong, given up after 1 restarts"
    assert outcome.code == 1 and said in outcome.text and "  | " in outcome.text, outcome


def test_what_was_refused_is_asked_again_once_it_is_mended(spread, slurm):
    project = spread(TWO)
    project.edit("smoke.yaml", "how: well", "how: refuse once")
    outcome = project.doit("shards")
    assert outcome.code == 2 and "REFUSED: pieces.how: an odd piece; found refuse once" in outcome.text, outcome
    assert project.doit("shards").code == BUILT and project.squares() == SQUARES
    assert list(slurm.jobs) == [100, 101]


def test_a_job_of_a_stage_that_is_fresh_again_is_cancelled(spread, slurm):
    project = spread("{kind: local}")
    assert project.doit("shards").code == BUILT
    project.edit("smoke.yaml", "{kind: local}", TWO)
    killed_while_it_works(project, slurm)
    project.edit("smoke.yaml", "how: wait", "how: well")
    (slurm.folder / "down").touch()
    outcome = project.doit("shards")
    assert outcome.code == BUILT and "!! job 100: a slurm job could not be cancelled" in outcome.text, outcome
    (slurm.folder / "down").unlink()
    outcome = project.doit("shards")
    assert "!! slurm job 100 of an earlier run is not wanted any more: cancelled" in outcome.text, outcome
    assert outcome.ran == [] and slurm.ended(100) == "CANCELLED"


def test_a_job_is_ended_before_another_launcher_takes_its_stage(spread, slurm):
    project = spread(TWO)
    killed_while_it_works(project, slurm)
    project.edit("smoke.yaml", TWO, "{kind: local}")
    assert project.doit("shards").code == BUILT and project.squares() == SQUARES
    assert slurm.ended(100) == "CANCELLED" and "by 0 of 1" in project.log


def test_a_job_that_is_cancelled_because_its_stage_was_found_complete_is_told(spread, slurm):
    """A build that was killed between the end of its stage and the publishing of it, and one with a job before that."""
    project = spread("{kind: local}")
    assert project.doit("shards").code == BUILT
    staging = project.root / ".staging"
    (project.root / "shards").rename(staging / "out-shards-1")
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    (slurm.folder / "100.json").write_text(json.dumps({"name": "mmpt-shards-abc", "pid": process.pid}))
    note = staging / "work-shards-abc" / "launch" / "part" / "slurm.json"
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps({"job": "100", "name": "mmpt-shards-abc"}))
    outcome = project.doit("shards")
    assert "slurm job 100 of an earlier run is not wanted any more: cancelled" in outcome.text, outcome
    assert slurm.ended(100) == "CANCELLED" and process.wait(10) and not note.exists()


def test_where_slurm_is_gone_another_launcher_is_told_which_note_speaks_of_a_job(spread, slurm, monkeypatch):
    project = spread(TWO)
    killed_while_it_works(project, slurm)
    project.edit("smoke.yaml", TWO, "{kind: local}")
    with monkeypatch.context() as elsewhere:
        folders = [one for one in os.environ["PATH"].split(os.pathsep) if not Path(one, "scancel").exists()]
        elsewhere.setenv("PATH", os.pathsep.join(folders))
        outcome = project.doit("shards")
        assert outcome.code == 2 and "slurm.json: slurm job 100 of an earlier run may still work" in outcome.text
        assert "launcher.kind" not in outcome.text and not slurm.ended(100)
        slurm.lose(100)
        (note,) = project.root.glob(".staging/work-shards-*/launch/part/slurm.json")
        note.unlink()
        let_go(project)
        assert project.doit("shards").code == BUILT and project.squares() == SQUARES


def test_a_job_that_someone_cancels_is_not_submitted_again(spread, slurm):
    project = spread(TWO)
    process = at_work(project)
    subprocess.run(["scancel", "100"], check=True)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and "slurm job 100 was cancelled; what is done stays" in text
    let_go(project)
    assert project.doit("shards").code == BUILT and list(slurm.jobs) == [100, 101]


def test_a_worker_s_failure_before_slurm_queued_its_job_again_is_past(tmp_path, slurm, monkeypatch):
    ctx = context(tmp_path, Launcher("slurm", 2, slurm={"time": 1}))
    name = "mmpt-shards-abc"
    (slurm.folder / "100.json").write_text(json.dumps({"name": name}))
    (slurm.folder / "requeued").write_text("1")
    (slurm.folder / "100.ended").write_text("COMPLETED")  # what slurm says for a moment
    reports = Reports(tmp_path / "reports")
    watch = JobWatch(ctx, reports, "100", name)
    monkeypatch.setattr(launcher, "SETTLING", 0.2), monkeypatch.setattr(launcher, "ASK", (0.1, 0.1))
    monkeypatch.setattr(launcher, "LOOK", (0.05, 0.1))
    reports.end(End(0, 2, "broke", "the other one is gone", 0, {}))
    waiting = threading.Thread(target=watch.wait, daemon=True)
    waiting.start()
    wait_until(lambda: watch.state.word == "COMPLETED")
    (slurm.folder / "100.ended").unlink()
    wait_until(lambda: watch.state.word == "RUNNING")
    waiting.join(0.5)  # some looks at the reports
    assert waiting.is_alive()
    reports.end(End(0, 2, "broke", "again", 1, {}))
    waiting.join(10.0)
    assert not waiting.is_alive()
    (slurm.folder / "100.ended").write_text("FAILED")


def test_a_job_that_slurm_forgot_is_judged_by_its_reports(spread, slurm):
    project = spread(TWO)
    (slurm.folder / "forgotten").touch()
    project.edit("smoke.yaml", "how: well", "how: die once")
    assert project.doit("shards").code == BUILT and project.squares() == SQUARES
    assert "slurm job 100: rank 1 was killed by SIGKILL (out of memory?); submitted again" in project.log


@pytest.mark.parametrize(
    "what, said",
    [
        ("broken", "launcher.slurm: slurm took no job; found sbatch: error: invalid partition specified: nowhere"),
        ("down", "launcher.slurm: slurm does not answer; found squeue: error: Unable to contact slurm controller"),
        ("absent", "launcher.kind: there is no slurm here; expected squeue on PATH"),
    ],
)
def test_a_slurm_that_takes_no_job_is_one_line(tmp_path, slurm, monkeypatch, what, said):
    (slurm.folder / what).touch()
    if what == "absent":
        monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=said):
        launch(context(tmp_path, Launcher("slurm", 2, slurm={"time": 1})), parts.note_place)


def test_without_submitit_a_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r'submitit is not installed.*pip install "mmpt\[slurm\]"'):
        launch(context(tmp_path, Launcher("slurm", 2, slurm={"time": 1})), parts.note_place)


def context(folder: Path, launcher: Launcher) -> StageContext:
    (folder / "work-shards-abc").mkdir()
    return StageContext("shards", SliceView({}, ()), {}, folder / "out", folder / "work-shards-abc", launcher=launcher)


def test_workers_on_several_machines_find_each_other(tmp_path, slurm, monkeypatch):
    monkeypatch.setenv("FAKE_NODES", "no-host-[01-02]")
    ctx = context(tmp_path, Launcher("slurm", 4, slurm={"time": 1, "nodes": 2}))
    launch(ctx, parts.note_place)
    places = [json.loads((ctx.work / f"place-{rank}.json").read_text()) for rank in range(4)]
    assert {place["MASTER_ADDR"] for place in places} == {"127.0.0.1"}  # as in slurm: no such host name
    assert len({place["MASTER_PORT"] for place in places}) == 1
    assert [place["LOCAL_RANK"] for place in places] == ["0", "1", "0", "1"]
    assert {(place["world"], place["OMP_NUM_THREADS"], place["PYTHONHASHSEED"]) for place in places} == {(4, "1", "0")}
