"""The commands as a user types them: what they print, what --json holds, what they refuse, how they exit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmpt.build.commandline import guarded
from mmpt.build.commands import List
from mmpt.gating.defaults import default_gates
from mmpt.launch.process_setup import process_environment
from mmpt.store.canonical import read_json
from mmpt.store.schema import violations
from tests.build.forked_doit import SOON, forked_doit

GATES = default_gates()

ANSWERS = ["--owner", "ada", "--reason", "good enough to be compared with"]


def run(project, *words: str, **environment: str) -> subprocess.CompletedProcess:
    """`doit` with stdout and stderr apart."""
    errors = project.folder.with_name(f"{project.folder.name}.errors")
    code, printed = forked_doit(project.folder, *words, environment=environment, errors=errors)
    return subprocess.CompletedProcess(words, code, printed, errors.read_text())


def answer(project, *words: str) -> dict:
    """The document of --json, which is all of stdout and holds its schema."""
    outcome = run(project, *words, "--json")
    body = json.loads(outcome.stdout)
    assert list(violations(body, "commands")) == []
    assert body["exit_code"] == outcome.returncode
    return body


# --json


def test_every_command_answers_in_json(built):
    commands = {
        "list": [],
        "plan": [],
        "why": ["slow"],
        "verify": ["--deep"],
        "report": [],
        "gates": ["--strict"],
        "decide": [],
        "accept": ANSWERS,
        "diff": ["smoke", "smoke"],
        "history": ["--limit", "2"],
        "help": ["why"],
        "completion": ["fish"],
        "bench": [],
        "run": ["-n"],
    }
    bodies = {name: answer(built, name, *words) for name, words in commands.items()}
    assert {name: (body["command"], body["profile"], body["exit_code"]) for name, body in bodies.items()} == {
        name: (name, "" if name == "bench" else "smoke", 0) for name in commands
    }
    results = {name: body["result"] for name, body in bodies.items()}
    assert [one["stage"] for one in results["list"]["stages"]] == [
        "count",
        "double",
        "slow",
        "side",
        "render",
    ]
    assert {one["state"] for one in results["plan"]["stages"]} == {"fresh"}
    assert results["gates"]["decision"] == results["decide"]["decision"] == "GO"
    assert len(results["history"]["rows"]) == 2 and results["history"]["total"] > 2
    assert results["verify"]["wrong"] == 0 and len(results["verify"]["checked"]) > 5
    assert results["diff"]["metrics"] == [] and results["diff"]["compared"] > 100


def test_a_run_in_json_tells_every_stage_and_keeps_progress_off_stdout(tiny):
    assert "nothing is published yet" in run(tiny, "verify").stderr
    assert "nothing is built yet" in run(tiny, "accept", *ANSWERS).stderr and not tiny.root.exists()
    outcome = run(tiny, "--json")
    body = json.loads(outcome.stdout)
    assert list(violations(body, "commands")) == []
    assert [(one["stage"], one["state"]) for one in body["result"]["stages"]] == [
        (name, "built") for name in ("count", "double", "slow", "side", "render")
    ]
    assert body["result"]["decision"] == "GO" and body["result"]["stages"][0]["reasons"] == ["never built"]
    assert "count            built in" in outcome.stderr
    tiny.edit("smoke.yaml", "how: plain", "how: break")
    body = answer(tiny)
    side = next(one for one in body["result"]["stages"] if one["stage"] == "side")
    assert (body["exit_code"], side["state"], side["status"]) == (1, "failed", "broke")
    assert "RuntimeError: side went wrong" in side["message"]


@pytest.mark.parametrize(
    "words, kind, found, fix",
    [
        (["profle=x"], "usage", "profle=x", "did you mean 'profile'?"),
        (["pln"], "usage", "pln", "did you mean 'plan'?"),
        (["why", "slwo"], "usage", "slwo", "did you mean 'slow'?"),
        (["gates", "--strct"], "usage", "--strct", "did you mean '--strict'?"),
        (["reset-dep"], "usage", "", "see `doit waive`"),
    ],
)
def test_an_error_is_an_object_too(_built, words, kind, found, fix):
    outcome = run(_built, *words, "--json")
    body = json.loads(outcome.stdout)
    assert list(violations(body, "commands")) == []
    assert (outcome.returncode, body["exit_code"], body["error"]["kind"]) == (2, 2, kind)
    assert (body["error"]["found"], body["error"]["fix"]) == (found, fix)
    assert len(outcome.stderr.splitlines()) == 1


def test_a_command_that_prints_its_own_answer_is_heard(tiny, monkeypatch, capsys):
    """`doit sample` and `doit evaluate` load a model; only what becomes of their answer is looked at here."""
    from types import ModuleType

    from mmpt.build.commands import Sample

    module = ModuleType("mmpt.evaluate.commands")
    module.sample = lambda root, profile, options: print("a red circle") or 0
    for name in process_environment(1):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "mmpt.evaluate.commands", module)
    monkeypatch.setattr("mmpt.build.commandline.load", lambda name: Loaded)
    monkeypatch.setattr(sys, "argv", ["doit", "sample", "--task", "i2t", "--image", "x.png", "--json"])
    assert Sample(task_loader=None).parse_execute([]) == 0
    body = json.loads(capsys.readouterr().out)
    assert list(violations(body, "commands")) == []
    assert body["result"] == {"task": "i2t", "output": "a red circle"}
    assert process_environment(1).items() <= os.environ.items()  # it computes as a stage does


class Loaded:
    """As much of a project as that command asks for."""

    root = Path("artifacts/smoke")
    runtime = staticmethod({"threads": 1}.__getitem__)

    class profile:
        name = "smoke"


# exit codes


def test_the_exit_code_is_the_decision(built):
    """That of a real process; which decision a command comes to is asked where nothing need start."""
    built.ask_for(99)
    assert built.real_doit().code == 10
    assert [built.doit(*words).code for words in (["decide"], ["gates"])] == [10, 10]
    built.ask_for(1)
    assert [built.doit(*words).code for words in ([], ["gates"])] == [0, 0]
    built.edit("smoke.yaml", "n: 4", "n: 5")
    assert built.doit("gates").code == 20, "stale is no GO"


def test_named_stages_exit_by_the_gates_that_they_need_or_measure(built):
    """`doit split && ..` goes on where split is built, whatever the decision."""
    built.ask_for(99)
    assert [built.doit(stage).code for stage in ("count", "side", "double", "slow")] == [0, 0, 10, 10]


def test_a_bug_in_a_command_exits_1_with_its_traceback(built):
    (built.folder / "dodo.py").write_text("1 / 0\n")
    outcome = run(built, "plan", "--json")
    assert outcome.returncode == 1 and "ZeroDivisionError" in outcome.stderr
    assert json.loads(outcome.stdout)["error"]["kind"] == "broke"


# plan, why, list, help


def test_plan_says_what_a_gate_holds_back(built):
    built.ask_for(99)
    built.edit("smoke.yaml", "seconds: 0.0", "seconds: 0.001")
    found = {one["stage"]: one for one in answer(built, "plan")["result"]["stages"]}
    assert {name: one["state"] for name, one in found.items()} == {
        "count": "fresh",
        "double": "fresh",
        "slow": "blocked",
        "side": "fresh",
        "render": "blocked",
    }
    assert found["slow"]["held_by"][0]["gate"] == "S1" and found["render"]["behind"] == ["slow"]
    assert "held back by gate S1, NO_GO: total: too little" in run(built, "why", "render").stdout
    outcome = built.doit()
    assert outcome.ran == [], "a run does what the plan said"


def test_plan_names_what_the_decision_will_be_softened_by(built):
    soft = '{gate: B1, check: falls, severity: warn, reason: "a short trial run"}'
    (built.folder / "smoke.yaml").write_text((built.folder / "smoke.yaml").read_text() + f"gates: [{soft}]\n")
    outcome = run(built, "plan")
    assert "softened         B1.falls.severity: block -> warn by smoke.yaml (a short trial run)" in outcome.stdout
    assert [one["what"] for one in answer(built, "plan")["result"]["softenings"]] == ["B1.falls.severity"]


def test_a_gate_whose_measurement_will_be_made_again_blocks_nothing_yet(built):
    built.ask_for(15)
    built.edit("smoke.yaml", "n: 4", "n: 5")
    states = {one["stage"]: one["state"] for one in answer(built, "plan")["result"]["stages"]}
    assert states["slow"] == "may run" and built.doit().code == 0


def test_a_dry_run_is_the_plan_of_what_was_asked_for_and_runs_nothing(built):
    built.edit("smoke.yaml", "bytes: 0", "bytes: 1")
    assert run(built, "-n", "slow").stdout == run(built, "plan", "slow").stdout
    assert "side" not in run(built, "-n", "slow").stdout
    found = answer(built, "-n", "-s", "-a", "double")["result"]["stages"]
    assert [(one["stage"], one["state"], one["asked"]) for one in found] == [("double", "runs", True)]
    before = (built.root / "side/receipt.json").read_bytes()
    assert run(built, "-n").returncode == 0 and (built.root / "side/receipt.json").read_bytes() == before


def test_why_shows_where_long_values_differ_and_keeps_them_whole(built):
    long = "x" * 80
    built.edit("smoke.yaml", "how: plain", f"how: {long}a")
    run(built, "side")
    built.edit("smoke.yaml", f"{long}a", f"{long}b")
    text = run(built, "why", "side").stdout
    assert f"profile key side.how: ...{'x' * 20}a -> ...{'x' * 20}b" in text
    reason = answer(built, "why", "side")["result"]["stages"][0]["reasons"][0]
    assert (reason["old"], reason["new"]) == (f"{long}a", f"{long}b")


def test_why_of_a_fresh_stage_is_one_line(_built):
    outcome = run(_built, "why", "slow")
    assert outcome.stdout == "slow is fresh: its receipt matches the profile, code, inputs and outputs\n"
    assert answer(_built, "why", "slow")["result"] == {"stage": "slow", "state": "fresh", "stages": []}


def test_help_names_every_command_and_each_explains_itself(_built):
    text = run(_built, "help").stdout
    assert run(_built, "--help").stdout == text
    names = [line.split()[0] for line in text.splitlines() if line.startswith("  ") and line[2] != " "]
    ours = "run plan why list verify gates decide report waive accept history diff sample evaluate help"
    assert {*ours.split(), "completion"} <= set(names) and "reset-dep" not in names
    assert all(len(line) <= 80 for line in text.splitlines()), text
    outcome = run(_built, "accept", "--help")
    assert (outcome.returncode, run(_built, "help", "accept").stdout) == (0, outcome.stdout)
    assert outcome.stdout.startswith("usage: doit accept") and "--json" in outcome.stdout
    assert "measures" in run(_built, "help", "double").stdout


@pytest.mark.parametrize(
    "words, said",
    [
        (["gtes"], "no such command or stage; found gtes; did you mean 'gates'?"),
        (["init", "folder"], "no command of doit; found init; `mmpt init FOLDER --from DATA` starts a project"),
        (["slow", "plan"], "a command where a stage belongs; found plan; try `doit plan`"),
        (["help", "slwo"], "no such command, stage, gate or key of a profile; found slwo; did you mean 'slow'?"),
        (["help", "b33"], "found b33; did you mean 'B3'?"),
        (["help", "qwxz"], "found qwxz; `doit help` lists commands, `doit list` stages and gates"),
        (["help", "S1", "lots"], "gate S1 has no such check; found lots; did you mean 'lost'?"),
        (["help", "slow", "now"], "too many words; found slow now"),
        (["accept", "S3"], "arguments are required: --reason"),
        (["accept", "S3", "--reason", "short"], "not a reason; found 'short'"),
        (["accept", "S9", *ANSWERS], "no such gate; found S9"),
        (["accept", "C3", *ANSWERS], "no check of this gate compares with a baseline; found C3; expected S3"),
        (["diff", "smoke"], "wrong number of words; found smoke; expected A B"),
        (
            ["diff", "smoke", "smok"],
            "no such run; found smok; expected a name under artifacts/",
        ),
        (["history", "--limit", "0"], "argument --limit: found 0, expected a number from 1 up"),
        (["fit", "--gpus", "-1"], "argument --gpus: found -1, expected a number from 1 up"),
        (["fit", "--measure", "0"], "argument --measure: found 0, expected a number from 1 up"),
        (
            ["fit", "--memory-gib", "nan", "--tflops", "9"],
            "argument --memory-gib: found nan, expected a number above 0",
        ),
        (["history", "--gate", "S99"], "no such gate; found S99"),
        (["completion", "csh"], "no such shell; found csh; expected bash, zsh, fish"),
        (["info", "slow"], "see `doit help STAGE` and `doit why STAGE`"),
        (["waive", "C3", *ANSWERS, "--expires", "2020-01-01"], "that day is over; found 2020-01-01"),
        (["waive", "C3", *ANSWERS, "--expires", "soon"], "no such day; found soon"),
    ],
)
def test_wrong_words_are_one_line_that_says_what_is_right(_built, words, said):
    outcome = run(_built, *words)
    assert outcome.returncode == 2 and said in outcome.stderr and outcome.stderr.count("\n") == 1, outcome
    assert outcome.stdout == ""


def test_a_reader_that_has_gone_changes_no_exit_code(monkeypatch):
    """`doit gates | head -1` of a NO-GO exited with 0."""
    reader, writer = os.pipe()
    os.close(reader)
    command = object.__new__(List)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        assert guarded(lambda: (command.say("a line"), 10)[1]) == (10, None)


def test_hints_are_for_the_profile_that_was_asked_for(_built):
    text = (_built.folder / "smoke.yaml").read_text()
    (_built.folder / "other.yaml").write_text(text.replace("name: smoke", "name: other"))
    assert "nothing is published yet; run `doit profile=other` first" in run(_built, "verify", "profile=other").stderr
    refused = run(_built, "slwo", "profile=other").stderr
    assert refused == "doit: no such stage; found slwo; did you mean 'slow'?\n"
    assert "`doit gates profile=other`: the present verdict" in run(_built, "help", "K1", "profile=other").stdout
    (_built.folder / "other.yaml").unlink()


# gates on a terminal


def test_gates_are_aligned_within_80_columns_and_say_what_to_do(built):
    built.ask_for(99)
    lines = run(built, "gates").stdout.splitlines()
    table = lines[: lines.index("")]
    assert len(table) == len(GATES) and all(len(line) <= 80 for line in lines)
    assert len({line.index(" n ") for line in table}) == 1, "one column"
    assert "    total 12 (n 4), bound >= 99: too little" in lines and "    do: count further" in lines
    assert lines[-2:] == ["one diagnosis over all gates, and a profile to run next: `doit advise`", "NO-GO"]
    wide = run(built, "gates", COLUMNS="200").stdout.splitlines()
    assert any(line.endswith("The model still knows text") for line in wide)


# accept


def accepted(project) -> dict:
    return read_json(project.folder / "gates/baselines.json")["profiles"]


def make_worse(project, by: float) -> subprocess.CompletedProcess:
    """Let the pictures come out worse by so many dB; the run that measures them."""
    path = project.folder / "bodies/evidence/S3.json"
    body = json.loads(path.read_text())
    for metric in body["metrics"]:
        metric["value"] -= by * (metric["name"] == "psnr_db")
    path.write_text(json.dumps(body))
    return run(project, "-a", "double")


def test_an_accepted_baseline_holds_later_runs(built):
    outcome = run(built, "accept", *ANSWERS)
    assert outcome.returncode == 0 and "psnr_db [image]     (none)  ->  24.1    n 128" in outcome.stdout
    entry = accepted(built)["smoke"]["S3"]
    verdict = read_json(built.root / "gates/S3/verdict.json")
    assert (entry["subject"], entry["evidence"]) == (verdict["subject_digest"], verdict["evidence_sha256"])
    assert (entry["owner"], entry["reason"]) == ("ada", "good enough to be compared with")
    assert make_worse(built, by=0.4).returncode == 0, "0.5 dB are allowed"
    decided = make_worse(built, by=0.2)
    assert decided.returncode == 10
    assert "psnr_baseline [image] 23.5 dB (n 128), bound >= 23.6" in decided.stdout
    before = (built.folder / "gates/baselines.json").read_bytes()
    refused = run(built, "accept", "S3", *ANSWERS)
    assert refused.returncode == 2 and "only what passes can be a baseline; found NO_GO" in refused.stderr
    assert (built.folder / "gates/baselines.json").read_bytes() == before
    lowered = answer(built, "accept", "S3", "--worse", *ANSWERS)["result"]["accepted"][0]
    changed = next(one for one in lowered["changes"] if one["metric"] == "psnr_db")
    assert (changed["old"], round(changed["new"], 6), changed["n"]) == (24.1, 23.5, 128)
    assert run(built, "decide").returncode == 0
    rows = answer(built, "history", "--gate", "S3")["result"]["rows"]
    assert [row.get("event") or f"{row['from']}>{row['to']}" for row in rows] == [
        ">GO",
        "baseline accepted",
        "GO>NO_GO",
        "baseline accepted",
        "NO_GO>GO",
    ]
    assert "psnr_db 24.1 -> 23.5" in rows[3]["reason"] and run(built, "verify").returncode == 0


def test_accepting_the_same_again_changes_nothing(built):
    run(built, "accept", "S3", *ANSWERS)
    before = (
        (built.folder / "gates/baselines.json").read_bytes(),
        len(answer(built, "history")["result"]["rows"]),
    )
    outcome = run(built, "accept", "S3", *ANSWERS)
    assert "this is the baseline already, accepted by ada" in outcome.stdout
    after = (
        (built.folder / "gates/baselines.json").read_bytes(),
        len(answer(built, "history")["result"]["rows"]),
    )
    assert before == after


def test_what_is_stale_or_undecided_is_no_baseline(built):
    built.edit("smoke.yaml", "n: 4", "n: 5")
    stale = run(built, "accept", "S3", *ANSWERS)
    assert stale.returncode == 2 and "S3 rests on a stage that is not up to date" in stale.stderr
    built.edit("smoke.yaml", "n: 5", "n: 4")
    path = built.root / "double/data/evidence/S3.json"
    path.write_text(path.read_text().replace('"value": 24.1', '"value": 99.1'))
    touched = run(built, "accept", "S3", *ANSWERS)
    assert touched.returncode == 2 and "double/data/evidence/S3.json was edited" in touched.stderr
    path = built.folder / "bodies/evidence/S3.json"
    text = path.read_text()
    path.write_text(text.replace('"value": 0.87', '"value": null').replace('"name": "ids_out', '"name": "ids_in'))
    run(built, "-a", "double")
    undecided = run(built, "accept", "S3", *ANSWERS)
    assert undecided.returncode == 2 and "found CANNOT_DECIDE, segments" in undecided.stderr
    assert accepted(built) == {}


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda path: path.unlink(), "the accepted baselines are missing"),
        (lambda path: path.write_text("{"), "not JSON"),
        (
            lambda path: path.write_text(path.read_text().replace("24.1", "20.1")),
            "profiles.smoke.S3: a baseline was edited: it is not what was accepted",
        ),
    ],
)
def test_a_baseline_that_is_missing_or_damaged_stops_every_decision(built, damage, said):
    run(built, "accept", *ANSWERS)
    damage(built.folder / "gates/baselines.json")
    for words in ([], ["decide"]):
        outcome = run(built, *words)
        assert outcome.returncode == 2 and said in outcome.stderr and "GO" not in outcome.stdout, outcome


def test_a_waiver_is_told_by_the_history(built):
    built.ask_for(99)
    run(built, "decide")
    waived = answer(built, "waive", "S1", *ANSWERS, "--expires", SOON)["result"]["waived"]
    assert [(one["check"], one["value"]) for one in waived] == [("total", 12)]
    assert run(built, "decide").returncode == 0
    text = run(built, "history", "--gate", "S1", "--limit", "2", COLUMNS="200").stdout
    assert f"S1  waiver added: total at 12, until {SOON}; ada: good enough to be compared with" in text
    assert "S1  NO_GO -> GO_WAIVED" in text and "S3" not in text


# diff


def test_diff_shows_what_became_of_every_number_and_why(built, tmp_path):
    shutil.copytree(built.root, tmp_path / "elsewhere")
    built.ask_for(13)
    built.edit("smoke.yaml", "n: 4", "n: 3")
    built.doit()
    text = run(built, "diff", str(tmp_path / "elsewhere"), "smoke").stdout
    assert "S1  GO -> NO_GO  Enough" in text and "B: total: too little" in text
    assert "S1  total  pass  ->  fail" in text and "count.n: 4 -> 3" in text
    assert all(len(line) <= 80 for line in text.splitlines()[2:]), text  # after the names
    found = answer(built, "diff", "smoke", str(tmp_path / "elsewhere"))["result"]
    total = next(one for one in found["metrics"] if one["metric"] == "total")
    assert (total["a"]["value"], total["b"]["value"], total["delta"]) == (6, 12, 6)
    assert found["profile"] == [{"name": "count.n", "a": 3, "b": 4}]
    assert {one["name"] for one in found["outputs"]} == {"count", "double", "side"}


def test_diff_knows_better_from_worse_and_says_what_a_side_lacks(built, tmp_path):
    path = built.folder / "bodies/evidence/C3.json"
    body = json.loads(path.read_text())
    shutil.copytree(built.root, tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / "side")
    for metric in body["metrics"]:
        metric["direction"] = "lower"
        metric["value"] = metric["value"] and metric["value"] + 0.001
    body["metrics"] = [one for one in body["metrics"] if one["n"] != 1]
    path.write_text(json.dumps(body))
    built.doit("-a", "double")
    found = answer(built, "diff", str(tmp_path / "old"), "smoke")["result"]
    changed = [one for one in found["metrics"] if one["gate"] == "C3"]
    assert changed and all(one["change"] == "worse" and one["delta"] > 0 for one in changed)
    assert found["lacks"]["a"] == ["stage side"]
    assert "A lacks\n  stage side" in run(built, "diff", str(tmp_path / "old"), "smoke").stdout


def test_diff_believes_nothing_that_was_edited(built, tmp_path):
    shutil.copytree(built.root, tmp_path / "b")
    for name, old, new in [
        ("double/data/evidence/S1.json", '"value": 12', '"value": 13'),
        ("side/receipt.json", '"seed": 1', '"seed": 2'),
        ("gates/C3/verdict.json", '"verdict": "GO"', '"verdict": "NO_GO"'),
    ]:
        path = tmp_path / "b" / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    outcome = run(built, "diff", "smoke", str(tmp_path / "b"), "--json")
    found = json.loads(outcome.stdout)["result"]
    assert outcome.returncode == 1
    assert [line.split(":")[0] for line in found["b"]["damaged"]] == [
        "double/data/evidence/S1.json",
        "side/receipt.json",
        "gates/C3/verdict.json",
        "gates/S1/verdict.json",  # it was decided on other evidence
    ]
    assert found["metrics"] == [] and found["verdicts"] == []


# completion


@pytest.fixture(scope="module")
def bash(_built):
    return run(_built, "completion", "bash").stdout


@pytest.mark.parametrize(
    "typed, offered",
    [
        (["wh"], ["why"]),
        (["pl"], ["plan"]),
        (["why", "sl"], ["slow"]),
        (["slow", "--a"], ["--always"]),
        (["sample", "--task", "t2"], ["t2a", "t2i"]),
        (["waive", "C"], ["C1", "C2", "C3", "C4"]),
        (["accept", ""], ["S3", "profile="]),
        (["history", "--gate", "T"], ["T1"]),
        (["gates", "--s"], ["--strict"]),
        (["plan", "profile", "=", "capt"], ["captions"]),
        (["plan", "profile=capt"], ["profile=captions"]),
        (["profile", "=", "smoke", "hist"], ["history"]),
        (["plan", "profile", "=", "smo"], ["smoke", "smoke.yaml"]),
        (["diff", "sm"], ["smoke"]),
        (["completion", "z"], ["zsh"]),
        (["run", "-s", "co"], ["count"]),
    ],
)
def test_bash_completes(_built, bash, typed, offered):
    code = bash + '\nCOMP_WORDS=(doit "$@"); COMP_CWORD=$#; _doit; printf "%s\\n" "${COMPREPLY[@]}"'
    outcome = subprocess.run(["bash", "-c", code, "bash", *typed], cwd=_built.folder, text=True, capture_output=True)
    assert (sorted(outcome.stdout.split()), outcome.stderr) == (sorted(offered), "")


def test_bash_offers_profiles_right_after_the_equals_sign(_built, bash):
    code = bash + '\nCOMP_WORDS=(doit plan profile =); COMP_CWORD=3; _doit; printf "%s\n" "${COMPREPLY[@]}"'
    outcome = subprocess.run(["bash", "-c", code], cwd=_built.folder, text=True, capture_output=True)
    assert {"captions", "smoke", "smoke.yaml", "media/"} <= set(outcome.stdout.split())


def test_bash_completes_at_a_terminal(_built, bash, tmp_path):
    """The real thing: a word, the tab key, and what the line then says."""
    import pty

    (tmp_path / "rc").write_text(bash + "\nPS1='> '\ndoit() { echo \"ran:$*:\"; }\n")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(_built.folder)
        os.execvp("bash", ["bash", "--noprofile", "--rcfile", str(tmp_path / "rc"), "-i"])
    os.write(terminal, b"doit comple\tba\tpro\tsmok\t\r" + b"exit\r")
    seen = b""
    try:
        while data := os.read(terminal, 65536):
            seen += data
    except OSError:  # the other side is closed
        pass
    os.waitpid(pid, 0)
    os.close(terminal)
    assert b"ran:completion bash profile=smoke" in seen, seen


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_read_their_script(_built, shell):
    text = run(_built, "completion", shell).stdout
    assert "@" not in text.replace("@runs", "").replace("@files", ""), "every placeholder is filled"
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    assert subprocess.run([shell, "-n"], input=text, text=True, capture_output=True).stderr == ""
