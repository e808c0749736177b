"""Six ways around a gate that is not GO, each by the commands of `doit`; none leads past it."""

import shutil
import subprocess
import sys

import pytest

from mmpt.store.canonical import read_json, read_sealed, write_sealed


def copied(project, folder):
    """The same project at another place."""
    shutil.copytree(project.folder, folder, symlinks=True)
    copy = object.__new__(type(project))
    copy.folder = folder
    copy.edit("smoke.yaml", str(project.folder), str(folder))
    return copy


@pytest.fixture(scope="module")
def _blocked(_built, tmp_path_factory):
    project = copied(_built, tmp_path_factory.mktemp("blocked") / "project")
    project.ask_for(99)
    for name in ("slow", "render"):
        shutil.rmtree(project.root / name)
    assert project.doit("decide").code == 10
    return project


@pytest.fixture
def blocked(_blocked, tmp_path):
    """Stage slow needs S1, which is NO_GO; slow and its user were never built."""
    return copied(_blocked, tmp_path / "project")


def python(project, code: str) -> subprocess.CompletedProcess:
    """Run code in the project's folder, as somebody who does not use `doit` would."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=project.folder,
        env={"PYTHONPATH": f"{project.repo}:{project.folder}", "PATH": "/usr/bin:/bin"},
        text=True,
        capture_output=True,
    )


def closed(project) -> bool:
    """Whether nothing behind the gate was published and nothing says GO."""
    published = [name for name in ("slow", "render") if (project.root / name / "receipt.json").exists()]
    return published == [] and read_json(project.root / "decision.json")["decision"] != "GO"


def test_single(blocked):
    outcome = blocked.real_doit("-s", "slow")
    assert outcome.code == 10 and "BLOCKED: blocked by S1" in outcome.text and closed(blocked), outcome


@pytest.mark.parametrize("words", [("reset-dep", "slow"), ("ignore", "gate:S1")])
def test_doits_own_commands(blocked, words):
    assert blocked.doit(*words).code == 2
    assert blocked.doit("slow").code == 10 and closed(blocked)


def test_a_forged_verdict(blocked):
    path = blocked.root / "gates" / "S1" / "verdict.json"
    forged = read_sealed(path)
    forged |= {"verdict": "GO", "reason": ""}
    forged["checks"][0] |= {"status": "pass", "bound": 1}
    write_sealed(path, forged)  # its own digest holds
    for words in (("slow",), ("-s", "slow"), ("decide",)):
        assert blocked.doit(*words).code == 10 and closed(blocked)
    assert read_json(path)["verdict"] == "NO_GO"


def test_a_swapped_artifact(built, tmp_path):
    shutil.copytree(built.root / "double", tmp_path / "double")  # 12, with its receipt and its evidence
    built.ask_for(10)
    built.edit("smoke.yaml", "n: 4", "n: 2")
    assert built.doit().code == 10, "0 + 2 is less than 10"
    for name in ("slow", "render"):
        shutil.rmtree(built.root / name)
    shutil.rmtree(built.root / "double")
    shutil.copytree(tmp_path / "double", built.root / "double")
    outcome = built.doit("-s", "slow")
    assert outcome.code == 20 and "was made from another count than is there now" in outcome.text, outcome
    assert built.doit("slow").code == 10 and closed(built)


def test_swapped_evidence(blocked):
    path = blocked.root / "double" / "data" / "evidence" / "S1.json"
    path.write_text(path.read_text().replace('"value": 12', '"value": 99'))
    outcome = blocked.doit("-s", "slow")
    assert outcome.code == 20 and "is not the file that stage double published" in outcome.text, outcome
    assert closed(blocked)


def test_a_stage_started_directly(blocked):
    start = (
        "from mmpt.build import runner; from mmpt.build.commandline import load; from mmpt.build.turn import Turn; "
        "p = load('smoke'); turn = Turn(); turn.__enter__(); "
    )
    outcome = python(blocked, start + "runner.build(p, p.stage('slow'), print, turn)")
    assert "StageError: blocked by S1" in outcome.stderr and closed(blocked), outcome


def test_a_body_called_where_its_result_belongs(blocked):
    body = (
        "from pathlib import Path; from bodies.stages import slow; from mmpt.build.commandline import load; "
        "from mmpt.store.stage import SliceView, StageContext; p = load('smoke'); "
        "out = p.root / 'slow' / 'data'; out.mkdir(parents=True); "
        "slow(StageContext('slow', SliceView(p.profile.data, ('slow',)), {}, out, out))"
    )
    assert python(blocked, body).returncode == 0
    assert (blocked.root / "slow/data/steps.json").exists(), "it can be made, but not published"
    outcome = blocked.doit("render")
    assert outcome.code == 10 and "render" not in outcome.ran and closed(blocked), outcome


def test_the_exit_code_of_named_stages_is_that_of_their_own_gates(blocked):
    assert blocked.doit("slow").code == 10 and blocked.doit("double").code == 10, "double measures the gate that fails"
    assert blocked.doit("count").code == 0, "count needs no gate, whatever the decision of the whole run"
    assert blocked.doit().code == 10
