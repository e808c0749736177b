"""The whole pipeline in a copy of the repository, at the size of quick.yaml: what a user does and what must follow."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import pytest
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(
    "artifacts", ".git", "*.pyc", "__pycache__", ".venv*", "*.egg-info", ".pytest_cache", ".hypothesis"
)
PROFILE = "tests/pipeline/quick.yaml"
GATES = "K1 S1 S2 S3 W1 A1 A2 A3 A4 B1 B2 B3 B4 C1 C2 C3 C4 L1 E1 X1 R1 Q1 Q2 T1".split()


def start(project: Path, *words: str, **more) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(project), "CI": "true"}
    return subprocess.Popen(
        [sys.executable, "-m", "doit", *words],
        cwd=project,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **more,
    )


def doit(project: Path, *words: str) -> tuple[int, str]:
    process = start(project, *words)
    output = process.communicate()[0]
    return process.returncode, output


def built(output: str) -> set[str]:
    return {line.split()[0] for line in output.splitlines() if re.search(r"\bbuilt in\b", line)}


def planned(project: Path, profile: str = PROFILE) -> dict[str, str]:
    """Stage -> fresh, runs or may run."""
    output = doit(project, "plan", f"profile={profile}")[1]
    found = re.findall(r"^(\w+) +(fresh|runs|may run)\b", output, re.M)
    assert len(found) >= 20, output
    return dict(found)


def manifests(project: Path) -> dict[str, str]:
    root = project / "artifacts" / "pipeline-test"
    return {path.parent.name: path.read_text() for path in root.glob("*/MANIFEST.sha256")}


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path}"
    path.write_text(text.replace(old, new, 1))


def copy_of(project: Path, target: Path) -> Path:
    shutil.copytree(project, target, symlinks=True)
    return target


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Path, int, str]:
    """A copy of the repository with one finished run: (folder, exit code, output)."""
    project = tmp_path_factory.mktemp("clone") / "project"
    shutil.copytree(REPO, project, ignore=LEFT_OUT)
    return project, *doit(project, f"profile={PROFILE}")


@pytest.fixture
def project(first, tmp_path) -> Path:
    """A copy of the finished run at another path, to be mistreated."""
    return copy_of(first[0], tmp_path / "moved")


def test_the_run_ends_in_a_decision_with_every_gate_on_its_evidence(first):
    project, code, output = first
    root = project / "artifacts" / "pipeline-test"
    decision = json.loads((root / "decision.json").read_text())
    assert (code, decision["decision"]) == (10, "NO-GO"), output
    assert sorted(decision["gates"]) == sorted(GATES)
    assert all(gate["verdict"] in ("GO", "NO_GO", "CANNOT_DECIDE") for gate in decision["gates"].values())
    assert all(
        decision["gates"][gate]["verdict"] == "GO"
        for gate in ("K1", "S1", "S2", "S3", "A1", "A2", "A3", "A4", "C1", "C4")
    )
    assert output.rstrip().endswith("NO-GO")


def test_every_golden_item_decodes_trained_or_not(first):
    qual = first[0] / "artifacts" / "pipeline-test" / "generate" / "data" / "qual"
    for step in ("step_0", "step_16"):
        for folder in (qual / step, qual / step / "sampled"):
            pictures = sorted(folder.glob("*_t2i_image/*.png"))
            sounds = sorted(folder.glob("*_t2a_audio/*.wav"))
            assert len(pictures) == len(sounds) == 16, folder
            assert {Image.open(path).size for path in pictures} == {(48, 48)}
            for path in sounds:
                with wave.open(str(path)) as sound:
                    assert (sound.getframerate(), sound.getnchannels()) == (16000, 1)
                    assert sound.getnframes() in range(1600, 16001, 1600)


def test_a_no_go_run_still_has_its_report(first):
    page = (first[0] / "artifacts" / "pipeline-test" / "report" / "index.html").read_text()
    assert "NO-GO" in page and "data:image/png;base64," in page and "<audio" in page


def test_a_no_go_run_is_not_exported(first, tmp_path):
    code, output = doit(first[0], "export", "--to", str(tmp_path / "out"), f"profile={PROFILE}")
    assert code == 10 and output.rstrip().endswith("NO-GO: nothing exported"), output
    assert list(tmp_path.iterdir()) == []


def test_again_nothing_runs_and_the_exit_code_stays(first):
    code, output = doit(first[0], f"profile={PROFILE}")
    assert code == 10 and not built(output) and re.search(r"\b0 built, 0 failed", output), output


def test_a_copy_at_another_path_is_fresh_and_verifies(project):
    assert set(planned(project).values()) <= {"fresh", "runs"} and planned(project)["train"] == "fresh"
    code, output = doit(project, "verify", f"profile={PROFILE}")
    assert code == 0, output


def test_an_evaluation_key_does_not_retrain(project):
    edited(project / PROFILE, "bootstrap: 200", "bootstrap: 210")
    plan = planned(project)
    assert plan["train"] == plan["warmup"] == plan["base"] == "fresh" and plan["ablation"] == "runs"


def test_a_comment_runs_nothing_and_train_code_runs_from_its_first_user_on(project):
    loop = project / "mmpt" / "train" / "loop.py"
    loop.write_text("# a comment\n" + loop.read_text())
    assert {plan for stage, plan in planned(project).items() if stage != "release"} == {"fresh"}
    loop.write_text(loop.read_text() + "\n\nADDED = 1\n")
    plan = planned(project)
    before = (
        "corpus",
        "manifest",
        "split",
        "codecs",
        "token_space",
        "shards",
        "shard_audit",
        "kernels",
        "base",
        "examples",
        "golden",
    )
    assert {plan[stage] for stage in before} == {"fresh"} and plan["warmup"] == plan["train"] == "runs"


def test_kill_9_in_training_resumes_and_gives_the_same_bytes(first, tmp_path):
    project = copy_of(first[0], tmp_path / "killed")
    root = project / "artifacts" / "pipeline-test"
    expected = manifests(project)
    shutil.rmtree(root / "train")
    process = start(project, f"profile={PROFILE}", start_new_session=True)
    deadline = time.monotonic() + 400
    while not list(root.glob(".staging/work-train-*/run/steps/step_8/*")):
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (root / "train").exists()
    code, output = doit(project, f"profile={PROFILE}")
    assert code == 10 and built(output) == {"train"}, output
    log = (root / "logs" / "train.log").read_text()
    assert re.search(r"resum", log), log
    assert manifests(project) == expected


def test_sample_writes_what_was_asked_for(first, tmp_path):
    """One task, from a shell; the others are in tests/evaluate/test_commands.py."""
    words = ("--prompt", "a red circle", "--task", "t2i", "--out", str(tmp_path / "x.png"))
    code, output = doit(first[0], "sample", f"profile={PROFILE}", *words)
    assert code == 0 and Image.open(tmp_path / "x.png").size == (48, 48), output


def test_a_setting_that_cannot_be_is_one_clear_line_and_exit_2(project):
    edited(project / PROFILE, "name: pipeline-test", "name: pipeline-test\nexamples: {max_seq_len: 12}")
    before = manifests(project)
    code, output = doit(project, f"profile={PROFILE}")
    assert code == 2 and "max_seq_len" in output and "Traceback" not in output, output
    kept = manifests(project)
    assert all(kept[stage] == before[stage] for stage in kept)


@pytest.mark.slow  # trains for minutes: the smoke run on shuffled captions
def test_shuffled_prompts_fail_the_gates_that_ask_for_conditioning(tmp_path):
    project = tmp_path / "project"
    shutil.copytree(REPO, project, ignore=LEFT_OUT)
    code, output = doit(project, "profile=tests/pipeline/shuffled.yaml")
    gates = json.loads((project / "artifacts/shuffled/decision.json").read_text())["gates"]
    assert code == 10 and gates["B3"]["verdict"] == gates["Q1"]["verdict"] == "NO_GO", output
