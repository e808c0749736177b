"""A run in upstream's layout through the whole build: imported, evaluated, decided."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.shards.upstream_run import build_run, write_checkpoints

REPO = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns("artifacts", ".git", "*.pyc", "__pycache__", ".venv*", "*.egg-info")


def doit(project: Path, *words: str) -> tuple[int, str]:
    environment = os.environ | {"PYTHONPATH": str(project), "CI": "true"}
    done = subprocess.run(
        [sys.executable, "-m", "doit", *words],
        cwd=project,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("imported") / "project"
    shutil.copytree(REPO, root, ignore=LEFT_OUT)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = build_run(tmp_path_factory.mktemp("reference"), 60, 60)
    write_checkpoints(made)
    return made


def brought(run, name, **stage4):
    """A profile file over the run; with `stage4` its Stage-4 checkpoint is judged."""
    profile = run.profile(name=name)
    if stage4:
        profile["inputs"]["stage4"] = stage4
    path = run.root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(profile))
    return path


# Two whole builds of some 20 processes each.
@pytest.mark.slow
@pytest.mark.parametrize("trained", [False, True])
def test_a_run_that_was_brought_walks_to_a_decision(project, run, trained):
    stage4 = {"rows": str(run.root / "checkpoint_200"), "lora": str(run.root / "lora_200"), "step": 200}
    path = brought(run, "trained" if trained else "rows", **(stage4 if trained else {}))
    code, output = doit(project, f"profile={path}")
    decision = json.loads((project / "artifacts" / path.stem / "decision.json").read_text())
    assert code == 10 and output.rstrip().endswith("NO-GO"), output
    gates = {gate: one["verdict"] for gate, one in decision["gates"].items()}
    for gate in ("K1", "S2", "S3", "A1", "A2", "A3", "A4", "C4"):
        assert gates[gate] == "GO", output
    assert gates["C1"] == "CANNOT_DECIDE"  # four golden items per task: gate C1 asks for 64
    excused = {gate for gate, verdict in gates.items() if verdict == "NOT_APPLICABLE"}
    assert excused == ({"S1", "Q1", "B2"} if trained else {"S1", "Q1"})
    left = {(one["gate"], one["check"]) for one in decision["not_applicable"]}
    assert {("S1", ""), ("S2", "official_test"), ("S3", "reencode"), ("S3", "reconstruction")} <= left
    page = (project / "artifacts" / path.stem / "report" / "index.html").read_text()
    assert "NO-GO" in page and "<audio" in page
    saved = project / "artifacts" / path.stem / "train" / "data" / "checkpoints"
    assert (saved / ("step_200" if trained else "step_4") / "adapter_model.safetensors").is_file()
    code, output = doit(project, f"profile={path}")
    assert code == 10 and "0 built, 0 failed" in output, output
    assert doit(project, "verify", f"profile={path}")[0] == 0


# A build of the import stages in a process each.
@pytest.mark.slow
def test_bad_inputs_end_with_one_line_and_exit_2(project, run):
    path = brought(run, "truncated")
    shard = run.root / "tokenized/sounds/train/shard-000000.tar"
    kept = shard.read_bytes()
    shard.write_bytes(kept[:2000])
    code, output = doit(project, f"profile={path}")
    shard.write_bytes(kept)
    assert code == 2 and "sounds/train/shard-000000.tar: truncated" in output and "Traceback" not in output
    assert not (project / "artifacts/truncated/split").exists()
