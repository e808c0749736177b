"""The workflow that users copy: every command in it exists, and it publishes what a run writes."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmpt.build.project import Project
from mmpt.build.report_writer import write_report
from mmpt.build.stage_table import STAGES
from mmpt.profile import load_profile
from tests.report.sample_run import make_run

REPO = Path(__file__).resolve().parents[2]
WORKFLOW = yaml.load((REPO / ".github" / "workflows" / "ci.yml").read_text(), Loader=yaml.BaseLoader)
SETTINGS = tomllib.loads((REPO / "pyproject.toml").read_text())
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
PROFILE = WORKFLOW["jobs"]["decision"]["env"]["PROFILE"]
LINES = [line for step in STEPS for line in step.get("run", "").splitlines()]
CALLS = [shlex.split(line.split("|")[0]) for line in LINES if line.startswith("doit ")]


def test_the_calls_of_the_issue_are_made():
    said = "\n".join(LINES)
    for call in (r"^doit profile=", r"^doit verify .*--deep", r"^doit gates .*--strict", r"^pytest"):
        assert re.search(call, said, re.MULTILINE), call
    assert said.count("doit profile=$PROFILE") == 2 and "' 0 built, 0 failed'" in said


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_every_call_is_one_that_doit_takes(call):
    commands = SETTINGS["tool"]["doit"]["plugins"]["command"]
    words = [word.replace("$PROFILE", PROFILE) for word in call[1:]]
    name = next((word for word in words if "=" not in word and not word.startswith("-")), "run")
    module, _, kind = commands[name].partition(":")
    command = getattr(importlib.import_module(module), kind)
    _, rest, profile = command.parser(command.__new__(command)).read([word for word in words if word != name])
    assert rest == [] and load_profile(profile).name == PROFILE


def test_what_it_publishes_is_what_a_run_writes(tmp_path):
    project = Project(STAGES, load_profile(PROFILE), tmp_path)
    make_run(project.root)
    write_report(project, {})
    written = {path.name for path in (project.root / "report").iterdir()}
    assert written >= {"report.json", "index.html", "report.md", "report.txt", "junit.xml", "runs.jsonl"}
    (project.root / "logs").mkdir()  # the runner of a stage writes its log there
    for path in _published("Publish the report"):
        assert (tmp_path / path).exists(), path
    summary = next(line for line in LINES if "GITHUB_STEP_SUMMARY" in line)
    assert (tmp_path / shlex.split(summary)[1].replace("$PROFILE", PROFILE)).read_text().startswith("# ✅ GO")


def _published(name: str) -> list[str]:
    step: dict[str, Any] = next(one for one in STEPS if one.get("name") == name)
    return step["with"]["path"].replace("${{ env.PROFILE }}", PROFILE).split()


def test_it_may_only_read_and_trusts_only_pinned_actions_of_github():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in WORKFLOW["jobs"].values())
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[a-z-]+@v\d+", one) for one in used)
    assert all(step["with"]["persist-credentials"] == "false" for step in STEPS if "checkout" in str(step))


def test_it_tests_every_python_that_the_package_promises():
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", SETTINGS["project"]["requires-python"]).groups()
    promised = [f"3.{minor}" for minor in range(int(low), int(high))]
    assert WORKFLOW["jobs"]["tests"]["strategy"]["matrix"]["python"] == promised
    caches = [step["with"].get("cache") for step in STEPS if "setup-python" in step.get("uses", "")]
    assert caches == ["pip"] * len(WORKFLOW["jobs"])


def test_a_red_run_still_publishes():
    for step in STEPS:
        if "upload-artifact" in step.get("uses", "") or "GITHUB_STEP_SUMMARY" in step.get("run", ""):
            assert step["if"] == "${{ !cancelled() }}"
    assert WORKFLOW["defaults"]["run"]["shell"] == "bash"  # -e and pipefail: a red `doit | tee` is red
