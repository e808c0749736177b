"""A whole run over two workers beside the same run alone, at the size of quick.yaml."""

import importlib.util
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.launch.test_slurm import slurm  # noqa: F401  (a fixture)
from tests.pipeline.test_pipeline import LEFT_OUT, PROFILE, REPO, copy_of, doit, edited, manifests, start

pytestmark = pytest.mark.slow  # a pipeline twice over, 4 minutes
LOCAL, SPREAD = "launcher: local", "launcher: {kind: torchrun, processes: 2}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """A copy of the repository with everything up to train built by one process."""
    project = tmp_path_factory.mktemp("alone") / "project"
    shutil.copytree(REPO, project, ignore=LEFT_OUT)
    # So many rows at a time however many ranks there are: only sums are taken in another order.
    edited(project / PROFILE, "train: {steps: 16", "train: {micro_rows: 2, steps: 16")
    _code, output = doit(project, "train", f"profile={PROFILE}")
    assert "train            built in" in output, output
    return project


@pytest.fixture(scope="module")
def spread(alone, tmp_path_factory) -> Path:
    """The same, with shards and train built anew by two workers, to its decision."""
    project = copy_of(alone, tmp_path_factory.mktemp("spread") / "project")
    edited(project / PROFILE, LOCAL, SPREAD)
    for stage in ("shards", "train"):
        shutil.rmtree(root(project) / stage)
    code, output = doit(project, f"profile={PROFILE}")
    assert code == 10 and output.rstrip().endswith("NO-GO"), output  # too short to learn anything
    assert "shards           built in" in output and "examples         runs" not in output, output
    return project


def root(project: Path) -> Path:
    return project / "artifacts" / "pipeline-test"


def launched(project: Path, stage: str) -> dict:
    receipt = json.loads((root(project) / stage / "receipt.json").read_text())
    return receipt["predicate"]["runDetails"]["info"]["launcher"]


def rows(project: Path) -> list[dict]:
    return [json.loads(line) for line in (root(project) / "train/data/metrics.jsonl").read_text().splitlines()]


def test_shards_are_the_same_bytes(alone, spread):
    assert manifests(spread)["shards"] == manifests(alone)["shards"]
    assert launched(alone, "shards") == {"kind": "local"}
    assert launched(spread, "shards")["processes"] == 2


def test_training_losses_agree(alone, spread):
    one, two = rows(alone), rows(spread)
    assert len(one) == len(two) == 4
    for ours, theirs in zip(one, two, strict=True):
        for key in (key for key in ours if key.startswith("loss") and ours[key] is not None):
            assert theirs[key] == pytest.approx(ours[key], rel=1e-6, abs=1e-6), (ours["step"], key)
    assert launched(spread, "train")["processes"] == 2


def test_generated_files_are_the_same_bytes(spread, tmp_path):
    assert launched(spread, "generate")["processes"] == 2
    project = copy_of(spread, tmp_path / "again")
    edited(project / PROFILE, SPREAD, LOCAL)
    shutil.rmtree(root(project) / "generate")
    output = doit(project, "generate", f"profile={PROFILE}")[1]
    assert "generate         built in" in output and launched(project, "generate") == {"kind": "local"}, output
    assert manifests(project)["generate"] == manifests(spread)["generate"]


def second_worker(project: Path) -> int | None:
    """Process of rank 1."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:  # gone meanwhile, or another user's
            continue
        if b"mmpt.launch.worker" in words and str(project).encode() in words and b"\0RANK=1\0" in variables:
            return int(process.name)
    return None


def test_a_rank_killed_in_training_costs_no_byte(spread, tmp_path):
    project = copy_of(spread, tmp_path / "killed")
    shutil.rmtree(root(project) / "train")
    process = start(project, "train", f"profile={PROFILE}")
    deadline = time.monotonic() + 400
    while not list(root(project).glob(".staging/work-train-*/run/steps/step_8/*")):
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.02)
    os.kill(second_worker(project), signal.SIGKILL)
    output = process.communicate(timeout=900)[0]
    assert "train            built in" in output, output
    assert launched(project, "train")["restarts"] == 1
    assert re.search(r"rank 0: resumed", (root(project) / "logs" / "train.log").read_text())
    assert manifests(project)["train"] == manifests(spread)["train"]


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed")
def test_training_as_a_slurm_job_is_the_same_bytes(spread, slurm, tmp_path):  # noqa: F811  (a fixture)
    project = copy_of(spread, tmp_path / "slurm-run")
    edited(project / PROFILE, SPREAD, "launcher: {kind: slurm, processes: 2, slurm: {time: 10}}")
    shutil.rmtree(root(project) / "train")
    output = doit(project, "train", f"profile={PROFILE}")[1]
    assert "train            built in" in output and launched(project, "train")["kind"] == "slurm", output
    assert manifests(project)["train"] == manifests(spread)["train"]
