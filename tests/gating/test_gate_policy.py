"""The policy: what a profile may change, what no file may, and what a profile makes inapplicable."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from mmpt.build.declaration import measured_by
from mmpt.build.stage_table import STAGES
from mmpt.gating import decide, evaluate_gate, load_policy, rules
from mmpt.gating.checks import OF_SCRIPT
from mmpt.gating.floors import FLOORS
from mmpt.gating.verdicts import decide_evidence
from mmpt.gating.yaml_file import read_yaml
from mmpt.profile import load_profile
from mmpt.store.errors import UserError
from mmpt.store.schema import SchemaError
from tests.gating.gate_evidence import fixture, publish, publish_all

FLOOR_CHECKS = [(gate_id, floor.id) for gate_id, floors in FLOORS.items() for floor in floors]


def edited(gates_folder, gate_id, check_id, **changes):
    """policy.yaml with other numbers for one check, or the gate's script with another shape of it."""
    path = gates_folder / "policy.yaml"
    body = read_yaml(path)
    body["gates"][gate_id][check_id].update({key: one for key, one in changes.items() if key not in OF_SCRIPT})
    path.write_text(json.dumps(body))  # JSON is YAML
    shape = {key: one for key, one in changes.items() if key in OF_SCRIPT}
    (script,) = gates_folder.glob(f"{gate_id.lower()}_*.py")
    line = f'next(one for one in GATE["checks"] if one["id"] == {check_id!r}).update({shape!r})\n'
    script.write_text(script.read_text() + line * bool(shape))
    return path


def test_packaged_profiles_load():
    for name in ("smoke", "captions"):
        data = {"name": name} if name == "captions" else load_profile(name).data
        assert load_policy(profile=data).gates


def test_all_gates_of_the_design(policy):
    assert set(policy.gates) == set(measured_by(STAGES))


def test_every_check_that_can_stop_a_run_says_what_to_do(policy):
    for gate in policy.gates.values():
        for check in gate.checks:
            assert check.message and (check.remedy or check.severity == "info"), (gate.id, check.id)


REPO = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((REPO / "schemas" / "profile.schema.json").read_text())
COMMANDS = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["doit"]["plugins"]["command"]


# Keys of published JSON files that remedies name.
IN_JSON = {"token_space.others", "token_space.unmarked", "trivial.worst_change", "trivial.mean_change"}


def profile_keys(schema: dict, prefix: str = "") -> set[str]:
    below = schema.get("properties", {})
    return {prefix + key for key in below} | {
        one for key, part in below.items() for one in profile_keys(part, f"{prefix}{key}.")
    }


def remedies():
    for gate in load_policy().gates.values():
        for check in gate.checks:
            if check.severity != "info":
                yield pytest.param(gate, check.remedy, id=f"{gate.id}.{check.id}")
                if check.more:
                    yield pytest.param(gate, check.more + rules.FEWER, id=f"{gate.id}.{check.id}.more")
    yield pytest.param(None, rules.MORE + rules.FEWER, id="more")
    yield pytest.param(None, rules.UNMEASURED, id="unmeasured")


@pytest.mark.parametrize(("gate", "remedy"), list(remedies()))
def test_a_remedy_names_something_to_do_that_exists(gate, remedy):
    """A key of the profile, a file of the run, a command: and each of them is real."""
    commands = re.findall(r"`([^`]+)`", remedy)
    files = re.findall(r"\{run\}(/[\w./{}-]*\w)?", remedy)
    plain = re.sub(r"`[^`]+`|\{run\}[\w./{}-]*|[\w]+\.(json|jsonl|safetensors|log|html|sha256)\b", " ", remedy)
    keys = set(re.findall(r"\b[a-z_]+(?:\.[a-z_]+[a-z0-9_]*)+\b", plain))
    assert keys <= profile_keys(SCHEMA) | IN_JSON, keys
    for command in commands:
        program, _, words = command.partition(" ")
        if program == "pytest":
            assert all((REPO / word).exists() for word in words.split(" -k ")[0].split()), command
        elif program == "doit":
            assert words.split()[0] in {*COMMANDS, "accept", "fit"}, command
    stages = {Path(one).parts[1] for one in files if one}
    assert stages <= {stage.name for stage in STAGES} | {"logs", "report"}, stages
    assert keys or files or commands, "nothing to do"
    assert len(remedy) <= 330


def test_a_remedy_in_a_verdict_names_the_run(policy, root):
    publish(root, "manifest", "S1", fixture("S1", "bad"))
    failed, *_ = evaluate_gate("S1", root, policy).failing()
    assert failed.remedy.startswith("artifacts/smoke/manifest/data/errors.jsonl names them")
    evidence = fixture("S1", "good")
    evidence["metrics"] = [one for one in evidence["metrics"] if one["name"] != "bad_lines"]
    publish(root, "manifest", "S1", evidence)
    (missing,) = evaluate_gate("S1", root, policy).failing()
    assert "artifacts/smoke/logs/manifest.log" in missing.remedy


def test_what_is_told_of_too_few_is_what_raises_them(policy, root):
    """More records and golden items give no more text to measure on."""
    evidence = fixture("C3", "good")
    evidence["metrics"] = [{**one, "n": min(one["n"], 16510)} for one in evidence["metrics"]]
    publish(root, "text_regression", "C3", evidence)
    few = [one for one in evaluate_gate("C3", root, policy).failing() if "too small" in one.note]
    assert few and all(one.remedy.startswith("raise text.heldout_sentences") for one in few)


def test_a_profile_sets_its_own_numbers_with_a_reason(profile, gates_folder, root):
    reason = "a first trial on few data"
    profile["gates"] = [{"gate": "C2", "check": "growth", "min_n": 8, "threshold": 0.05, "reason": reason}]
    policy = load_policy(gates_folder / "policy.yaml", profile)
    assert policy.gate("C2").check("growth").min_n == 8
    assert [(one.key, one.default, one.value, one.reason) for one in policy.overrides] == [
        ("threshold", 0, 0.05, reason),
        ("min_n", 20, 8, reason),
    ]
    assert decide(root, policy, profile).body["overrides"][0]["reason"] == reason


def test_a_warning_of_the_profile_does_not_block(profile, gates_folder, root):
    publish(root, "warmup_check", "W1", fixture("W1", "bad"))
    policy = load_policy(gates_folder / "policy.yaml", profile)
    assert evaluate_gate("W1", root, policy).verdict == "NO_GO"
    profile["gates"] = [{"gate": "W1", "check": "win_rate", "severity": "warn", "reason": "short warm-up"}]
    verdict = evaluate_gate("W1", root, load_policy(gates_folder / "policy.yaml", profile))
    assert verdict.verdict == "GO"
    assert [one.status for one in verdict.checks if one.id == "win_rate"].count("warn") == 1


@pytest.mark.parametrize(
    "entry, word",
    [
        ({"gate": "B9", "check": "x"}, "no such gate"),
        ({"gate": "B3", "check": "win_swaped"}, "did you mean 'win_swapped'"),
        ({"gate": "B3", "check": "gap_swapped", "threshold": -1.0}, "floor"),
        ({"gate": "B3", "check": "gap_swapped", "severity": "warn"}, "floor"),
        ({"gate": "B3", "check": "gap_swapped", "min_n": 2}, "floor"),
        ({"gate": "C1", "check": "decode", "threshold": 0.8}, "floor"),
    ],
)
def test_an_override_that_may_not_be(profile, gates_folder, entry, word):
    profile["gates"] = [{**entry, "reason": "because I can"}]
    with pytest.raises(UserError, match=re.escape(word)):
        load_policy(gates_folder / "policy.yaml", profile)


@pytest.mark.parametrize(("gate_id", "check_id"), FLOOR_CHECKS)
def test_a_floor_cannot_be_lowered_in_the_policy_file(gates_folder, gate_id, check_id):
    with pytest.raises(UserError, match=f"{gate_id}.{check_id}.*severity warn, floor block"):
        load_policy(edited(gates_folder, gate_id, check_id, severity="warn"))


def test_every_floor_holds_in_the_shipped_policy_and_more_is_allowed(gates_folder):
    load_policy(edited(gates_folder, "S3", "reencode", threshold=0.0))
    with pytest.raises(UserError, match="threshold 0.01, floor 0.001"):
        load_policy(edited(gates_folder, "S3", "reencode", threshold=0.01))
    with pytest.raises(UserError, match="margin"):
        load_policy(
            edited(gates_folder, "S3", "reencode", threshold=0.0)
            and edited(gates_folder, "S3", "psnr_baseline", margin=-3)
        )


@pytest.mark.parametrize(
    ("gate", "check", "changes", "word"),
    [
        ("B1", "falls", {"optional": True}, "cannot be optional"),
        ("B1", "falls", {"warn_threshold": 0.05}, "warn_threshold 0.05, threshold 0.1"),
        ("A3", "kept", {"warn_threshold": 0.9}, "stricter than the threshold"),
    ],
)
def test_a_check_that_would_not_do_what_it_says_is_refused(gates_folder, gate, check, changes, word):
    with pytest.raises(UserError) as caught:
        load_policy(edited(gates_folder, gate, check, **changes))
    assert word in str(caught.value) and f"{gate}.{check}" in str(caught.value)


def test_policy_errors_name_the_place(gates_folder):
    path = edited(gates_folder, "B1", "falls", treshold=0.2, severity="blocking")
    with pytest.raises(SchemaError) as caught:
        load_policy(path)
    assert "gates.B1.falls: unknown key 'treshold'; did you mean 'threshold'?" in str(caught.value)
    assert "expected one of block, warn, info" in str(caught.value)


def test_a_corpus_without_oracle_attributes_has_no_q1(profile, gates_folder, root):
    profile["corpus"]["sources"] = [{"name": "mine", "reader": "captions", "path": "/x"}]
    policy = load_policy(gates_folder / "policy.yaml", profile)
    publish_all(root, policy, without=("Q1",))
    decision = decide(root, policy, profile)
    assert decision.decision == "GO"
    assert decision.body["gates"]["Q1"]["verdict"] == "NOT_APPLICABLE"
    assert "generated" in next(one for one in decision.body["not_applicable"] if one["gate"] == "Q1")["reason"]


def test_real_sounds_soften_only_the_mean_gap_of_sounds(profile, gates_folder):
    profile["corpus"]["sources"] = [{"name": "mine", "reader": "captions", "path": "/x"}]
    policy = load_policy(gates_folder / "policy.yaml", profile)
    evidence = fixture("B3", "good")
    for one in evidence["metrics"]:
        if one["name"].startswith("gap_swapped"):
            one.update(value=0.05, ci_low=0.01, ci_high=0.09)
    verdict = decide_evidence(policy.gate("B3"), evidence, policy, "0" * 64)
    status = {one.id: one.status for one in verdict.checks if one.id.startswith("mean_swapped")}
    assert status == {"mean_swapped_t2a": "warn", "mean_swapped_t2i": "fail"}


def test_without_prompt_dropout_the_empty_prompt_only_informs(profile, gates_folder, root):
    profile["mixture"]["prompt_dropout"] = 0.0
    policy = load_policy(gates_folder / "policy.yaml", profile)
    evidence = fixture("B3", "good")
    for one in evidence["metrics"]:
        if one["name"].endswith(("_empty", "empty_nats")):
            one.update(value=0.0, ci_low=-0.1, ci_high=0.1)
    publish(root, "ablation", "B3", evidence)
    assert evaluate_gate("B3", root, policy).verdict == "GO"


def test_a_modality_that_the_profile_leaves_out(profile, gates_folder, root):
    del profile["codecs"]["audio"]
    policy = load_policy(gates_folder / "policy.yaml", profile)
    for gate in policy.gates.values():
        evidence = fixture(gate.id, "good")
        absent = ("audio", "a2t", "t2a")
        evidence["metrics"] = [one for one in evidence["metrics"] if one["slice"].split(".")[0] not in absent]
        publish(root, gate.stage, gate.id, evidence)
    decision = decide(root, policy, profile)
    assert decision.decision == "GO", decision.body["gates"]
    listed = {(one["gate"], one["check"], one["slice"]) for one in decision.body["not_applicable"]}
    assert ("B3", "win_swapped", "t2a") in listed and ("S3", "decode", "audio") in listed


def test_an_absent_modality_without_the_profile_saying_so_is_not_excused(policy, root):
    evidence = fixture("C1", "good")
    evidence["metrics"] = [one for one in evidence["metrics"] if one["slice"] != "t2a"]
    publish(root, "generate", "C1", evidence)
    assert evaluate_gate("C1", root, policy).verdict == "CANNOT_DECIDE"
