"""The scripts in gates/ are what decides: by hand, from any folder, as `doit gates` does; and `doit` without them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
FIXTURES = REPO / "tests" / "gating" / "fixtures"
SCRIPTS = sorted(path.name for path in (REPO / "gates").glob("[a-z][0-9]_*.py"))
WARN_ONLY = ("t1_scores.py",)  # none of its evidence blocks
EACH = """
import contextlib, io, json, sys
sys.path.insert(0, sys.argv[1])
from mmpt.build.gate_script import main

codes = {}
for name in json.loads(sys.argv[3]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        codes[name] = main(f"{sys.argv[2]}/gates/{name}", json.loads(sys.argv[4]))
print(json.dumps(codes))
"""


def run(*words, cwd) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True)


def codes(project, tmp_path, *words: str) -> dict[str, int]:
    """Exit code of every script, started from a folder that is not the clone."""
    done = run("-c", EACH, REPO, project.folder, json.dumps(SCRIPTS), json.dumps(words), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def measured_badly(project) -> None:
    """Every gate's bad evidence, as its stage measured it."""
    for path in FIXTURES.glob("*/bad.json"):
        name = "s1.json" if path.parent.name == "S1" else f"evidence/{path.parent.name}.json"
        shutil.copyfile(path, project.folder / "bodies" / name)
    project.doit("-a", "double")


def test_every_script_exits_with_its_verdict(built, tmp_path):
    assert set(codes(built, tmp_path, "profile=smoke").values()) == {0}
    built.edit("smoke.yaml", "count: {n: 4}", "count: {n: 5}")
    assert set(codes(built, tmp_path, "profile=smoke").values()) == {20}, "stale evidence decides nothing"
    built.edit("smoke.yaml", "count: {n: 5}", "count: {n: 4}")
    measured_badly(built)
    assert codes(built, tmp_path, "profile=smoke") == {name: 0 if name in WARN_ONLY else 10 for name in SCRIPTS}


def test_a_script_by_hand_says_what_doit_gates_says(built, tmp_path):
    found = json.loads(built.doit("gates", "--json").text)["result"]
    script = built.folder / "gates" / "b3_ablation.py"
    done = run(script, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == next(one for one in found["gates"] if one["gate"] == "B3")
    done = run(script, "profile=smoke", cwd=tmp_path)
    assert done.stdout.startswith("B3 GO  Outputs depend on their prompts")
    for words in ("profile=nowhere", "profle=smoke"):
        done = run(script, words, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_a_script_refuses_a_softening_of_its_gate_strictly(built, tmp_path):
    text = (built.folder / "smoke.yaml").read_text()
    entry = "gates: [{gate: B1, check: falls, severity: warn, reason: a short trial}]\n"
    (built.folder / "smoke.yaml").write_text(text + entry)
    for name, code in (("b1_losses.py", 10), ("b2_stability.py", 0)):
        assert run(built.folder / "gates" / name, "--strict", cwd=tmp_path).returncode == code
        assert run(built.folder / "gates" / name, cwd=tmp_path).returncode == 0
    assert "GO (softened: B1.falls by smoke.yaml: a short trial)" in built.doit("gates").text
    strict = built.doit("gates", "--strict")
    assert strict.code == 10 and strict.text.splitlines()[-1].startswith("NO-GO (strict, and softened: B1.falls")


@pytest.mark.parametrize("command", [(), ("gates",), ("decide",)])
def test_a_deleted_script_is_missed_by_every_command(built, command):
    (built.folder / "gates" / "c3_text.py").unlink()
    outcome = built.doit(*command)
    assert outcome.code == 20 and outcome.text.splitlines()[-1] == "CANNOT-DECIDE"
    assert "gates/c3_*.py does not state it" in " ".join(outcome.text.split())


def test_a_deleted_script_of_a_gate_holds_back_what_needs_it(built):
    (built.folder / "gates" / "s1_manifest.py").unlink()
    shutil.rmtree(built.root / "slow")
    assert "held back by gate S1, CANNOT_DECIDE" in built.doit("plan", "slow").text
    outcome = built.doit()
    assert outcome.code == 20 and "slow" not in outcome.ran


def test_a_script_with_its_rule_turned_around_blocks(built):
    built.edit("gates/c3_text.py", '"rule": "ci_high_max"', '"rule": "ci_low_above"')
    outcome = built.doit()
    assert outcome.code == 10 and "asks something else by that name" in " ".join(outcome.text.split())
    built.edit("gates/s2_split.py", '"rule": "max"', '"rule": "min"')
    outcome = built.doit()
    assert outcome.code == 2 and "a floor that no file can lower" in outcome.text
