"""What is weaker than the defaults is a softening: told in the decision, refused by --strict, never silent."""

from __future__ import annotations

import json
import re

import pytest

from mmpt.gating import GATES_FOLDER, decide, evaluate_gate, load_policy
from mmpt.gating.defaults import PATH, default_gates, defaults_text
from mmpt.gating.floors import FLOORS
from mmpt.gating.policy import stated_gates
from mmpt.gating.verdicts import decide_evidence
from mmpt.gating.yaml_file import read_yaml
from mmpt.profile import PACKAGED, load_profile
from mmpt.store.errors import UserError
from tests.gating.gate_evidence import fixture, publish, publish_all

GATES = default_gates()
WEAKER_SEVERITY = {"block": "warn", "warn": "info"}


def rewrite(path, gate_id, change):
    """policy.yaml with ``change`` applied to the checks of one gate."""
    body = read_yaml(path)
    change(body["gates"][gate_id])
    path.write_text(json.dumps(body))  # JSON is YAML
    return path


def script_of(gates_folder, gate_id):
    (path,) = gates_folder.glob(f"{gate_id.lower()}_*.py")
    return path


def told(policy):
    return {(one.what, one.where) for one in policy.softenings}


def test_the_files_state_the_defaults():
    assert PATH.read_text() == defaults_text(stated_gates()), "python -m mmpt.gating.write_defaults"
    assert load_policy().softenings == ()


def unfloored():
    floored = {(gate_id, floor.id) for gate_id, floors in FLOORS.items() for floor in floors}
    for gate in GATES.values():
        for check in gate.checks:
            if (gate.id, check.id) not in floored and check.severity != "info":
                yield pytest.param(gate.id, check, id=f"{gate.id}.{check.id}")


@pytest.mark.parametrize(("gate_id", "check"), list(unfloored()))
def test_every_check_without_a_floor_is_told_where_it_is_softened(gates_folder, profile, gate_id, check):
    """In policy.yaml, and by the profile: both by its severity."""
    lower = WEAKER_SEVERITY[check.severity]
    profile["gates"] = [{"gate": gate_id, "check": check.id, "severity": lower, "reason": "a short trial"}]
    (one,) = load_policy(gates_folder / "policy.yaml", profile, file="my/run.yaml").softenings
    assert one.to_json() == {
        "what": f"{gate_id}.{check.id}.severity",
        "where": "my/run.yaml",
        "from": check.severity,
        "to": lower,
        "reason": "a short trial",
    }
    del profile["gates"]
    path = rewrite(gates_folder / "policy.yaml", gate_id, lambda gate: gate[check.id].update(severity=lower))
    assert told(load_policy(path, profile)) == {(f"{gate_id}.{check.id}.severity", "gates/policy.yaml")}


@pytest.mark.parametrize(
    ("gate_id", "check_id", "changes", "softer"),
    [
        ("B1", "falls", {"threshold": 0.05}, True),
        ("B1", "falls", {"threshold": 0.2}, False),
        ("B1", "read_holds", {"threshold": 0.2}, True),
        ("B1", "falls", {"min_n": 8}, True),
        ("B1", "falls", {"min_n": 32}, False),
        ("C3", "nll", {"threshold": 0.05}, True),
        ("R1", "kept", {"factor": 0.1}, True),
        ("B2", "grad_norm", {"warn_threshold": 90}, True),
        ("Q2", "ends", {"severity": "block"}, False),
        ("B1", "falls", {"severity_when": {"real_audio": "warn"}}, True),
    ],
)
def test_only_what_is_weaker_is_a_softening(gates_folder, gate_id, check_id, changes, softer):
    path = rewrite(gates_folder / "policy.yaml", gate_id, lambda gate: gate[check_id].update(changes))
    (key,) = changes
    expected = {(f"{gate_id}.{check_id}.{key}", "gates/policy.yaml")} if softer else set()
    assert told(load_policy(path)) == expected


@pytest.mark.parametrize(
    ("gate_id", "old", "new", "field"),
    [
        ("B4", '"slices": ["t2a", "t2i"]', '"slices": ["t2a"]', "B4.missing.slices"),
        ("C3", '"voids": ["nll"]', '"voids": []', "C3.base.voids"),
        ("T1", '"id": "T1",', '"id": "T1", "requires": "generated_corpus",', "T1.requires"),
    ],
)
def test_an_edited_script_is_a_softening(gates_folder, gate_id, old, new, field):
    script = script_of(gates_folder, gate_id)
    assert old in script.read_text()
    script.write_text(script.read_text().replace(old, new, 1))
    assert (field, f"gates/{script.name}") in told(load_policy(gates_folder / "policy.yaml"))


def test_a_softened_go_says_so_and_strict_refuses_it(gates_folder, profile, policy, root):
    publish_all(root, policy)
    profile["gates"] = [{"gate": "B1", "check": "falls", "threshold": 0.05, "reason": "a short trial"}]
    path = gates_folder / "policy.yaml"
    decision = decide(root, load_policy(path, profile, file="my/run.yaml"), profile)
    line = "GO (softened: B1.falls by my/run.yaml: a short trial)"
    assert (decision.exit_code, decision.body["headline"]) == (0, line)
    assert decision.body["softenings"][0]["to"] == "0.05"
    strict = decide(root, load_policy(path, profile, file="my/run.yaml", strict=True), profile)
    assert (strict.decision, strict.exit_code) == ("NO-GO", 10)
    assert strict.body["headline"].startswith("NO-GO (strict, and softened: B1.falls by my/run.yaml")
    del profile["gates"]
    plain = decide(root, load_policy(path, profile, strict=True), profile)
    assert (plain.exit_code, plain.body["headline"]) == (0, "GO")


def test_extends_hands_no_softening_on(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("extends: smoke\nname: mine\n")
    data = load_profile(str(path)).data
    assert "gates" not in data and load_policy(profile=data).softenings == ()


@pytest.mark.parametrize("name", sorted(path.stem for path in PACKAGED.glob("*.yaml")))
def test_a_packaged_profile_softens_nothing_but_what_it_states(name):
    data = load_profile(name).data
    stated = {f"{one['gate']}.{one['check']}" for one in data.get("gates", ())}
    assert {one.what.rsplit(".", 1)[0] for one in load_policy(profile=data).softenings} == stated


@pytest.mark.parametrize("gate_id", GATES)
def test_a_check_that_policy_yaml_lacks_cannot_be_decided(gates_folder, profile, root, gate_id):
    publish(root, GATES[gate_id].stage, gate_id, fixture(gate_id, "good"))
    check = GATES[gate_id].checks[-1].id
    path = rewrite(gates_folder / "policy.yaml", gate_id, lambda gate: gate.pop(check))
    verdict = evaluate_gate(gate_id, root, load_policy(path, profile))
    assert verdict.verdict == "CANNOT_DECIDE", verdict
    assert f"{check}: gates/policy.yaml does not state it" in verdict.reason


def test_a_gate_that_policy_yaml_lacks_cannot_be_decided(gates_folder, profile, policy, root):
    publish_all(root, policy)
    path = gates_folder / "policy.yaml"
    body = read_yaml(path)
    for gate_id in ("S1", "A3", "C3", "Q1"):
        del body["gates"][gate_id]
    path.write_text(json.dumps(body))
    decision = decide(root, load_policy(path, profile))
    undecided = {gate for gate, one in decision.body["gates"].items() if one["verdict"] == "CANNOT_DECIDE"}
    assert (decision.exit_code, undecided) == (20, {"S1", "A3", "C3", "Q1"})


@pytest.mark.parametrize("gate_id", GATES)
def test_a_gate_without_its_script_cannot_be_decided(gates_folder, profile, root, gate_id):
    publish(root, GATES[gate_id].stage, gate_id, fixture(gate_id, "good"))
    script_of(gates_folder, gate_id).unlink()
    verdict = evaluate_gate(gate_id, root, load_policy(gates_folder / "policy.yaml", profile))
    assert verdict.verdict == "CANNOT_DECIDE" and f"gates/{gate_id.lower()}_*.py" in verdict.reason


INVERTED = {
    "min": "max",
    "max": "min",
    "equal": "min",
    "ci_low_above": "ci_high_below",
    "ci_high_max": "ci_low_above",
    "ci_high_below": "ci_low_above",
}


@pytest.mark.parametrize("gate_id", GATES)
def test_an_inverted_rule_changes_the_verdict_or_is_refused(gates_folder, profile, gate_id):
    """Every rule of a script turned around: a gate with a floor refuses it, the others cannot be decided."""
    script = script_of(gates_folder, gate_id)
    script.write_text(re.sub(r'"rule": "(\w+)"', lambda m: f'"rule": "{INVERTED[m[1]]}"', script.read_text()))
    try:
        policy = load_policy(gates_folder / "policy.yaml", profile)
    except UserError as refused:
        assert "floor" in str(refused) or "warning that never comes" in str(refused)
        return
    verdict = decide_evidence(policy.gate(gate_id), fixture(gate_id, "good"), policy, "0" * 64)
    assert verdict.verdict in ("NO_GO", "CANNOT_DECIDE"), verdict
    assert any("asks something else by that name: rule" in one.note for one in verdict.checks)


def test_a_check_of_another_metric_cannot_be_decided_and_a_stricter_rule_can(gates_folder, profile):
    script, path = script_of(gates_folder, "B1"), gates_folder / "policy.yaml"
    text = script.read_text()
    script.write_text(text.replace('"loss_drop_share"', '"loss_rise_share"'))
    policy = load_policy(path, profile)
    verdict = decide_evidence(policy.gate("B1"), fixture("B1", "good"), policy, "0" * 64)
    said = "gates/b1_losses.py asks something else by that name: metric loss_rise_share, not loss_drop_share"
    assert verdict.verdict == "CANNOT_DECIDE" and said in [one.note for one in verdict.failing()]
    script.write_text(text.replace('"rule": "min"', '"rule": "ci_low_above"'))
    policy = load_policy(path, profile)
    assert policy.softenings == () and not policy.gate("B1").missing


EMPTY_CHECKS = {
    *(f"B3.{one}.severity" for one in ("win_empty", "gap_empty", "mean_empty_t2i", "mean_empty_t2a")),
    "C2.growth_empty.severity",
}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"golden": {"per_task": 63, "ablation": 256}}, {"golden.per_task"}),
        (
            {"mixture": {"prompt_dropout": 1e-9}},
            EMPTY_CHECKS,
        ),
        (
            {"mixture": {"prompt_dropout": 0.0}},
            EMPTY_CHECKS,
        ),
        ({"mixture": {"prompt_dropout": 0.02}}, set()),
        ({"evaluate": {"bootstrap": 999}}, {"evaluate.bootstrap"}),
        ({"generate": {"learned_end": {"min_seconds": 0.95}}}, {"generate.learned_end.min_seconds"}),
        ({"generate": {"learned_end": {"max_seconds": 2.5}}}, {"generate.learned_end.max_seconds"}),
        ({"generate": {"learned_end": {"min_seconds": 0.1, "max_seconds": 2.0, "outputs": 1024}}}, set()),
        ({"mixture": {"weights": {"a2t": 1, "i2t": 1, "t2a": 1, "t2i": 0}}}, {"mixture.weights.t2i"}),
        ({"tasks": ["a2t", "i2t", "t2a"], "mixture": {"weights": {"a2t": 1, "i2t": 1, "t2a": 1, "t2i": 0}}}, set()),
        ({"codecs": {"image": {"name": "patchvq"}}}, set()),
        ({"codecs": {"audio": {"name": "melrvq", "clip_seconds": 2.0, "order": "delay"}}}, {"codecs.audio.order"}),
    ],
)
def test_a_profile_that_leaves_the_gates_less_to_judge(profile, change, what):
    for key, one in change.items():
        merged = isinstance(one, dict) and key not in ("codecs", "tasks")
        profile[key] = {**profile[key], **one} if merged else one
    assert {one.what for one in load_policy(profile=profile).softenings} == what


def test_a_decision_for_some_tasks_names_them(gates_folder, root, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("extends: smoke\nname: mine\ntasks: [a2t, i2t]\n")
    data = load_profile(str(path)).data
    weights = load_profile("smoke").data["mixture"]["weights"]
    assert data["mixture"]["weights"] == {**weights, "t2a": 0, "t2i": 0}
    policy = load_policy(gates_folder / "policy.yaml", data, strict=True)
    for gate in policy.gates.values():
        evidence = fixture(gate.id, "good")
        evidence["metrics"] = [one for one in evidence["metrics"] if one["slice"].split(".")[0] not in ("t2a", "t2i")]
        publish(root, gate.stage, gate.id, evidence)
    decision = decide(root, policy, data)
    assert decision.body["gates"]["B3"]["verdict"] == "NOT_APPLICABLE"
    assert (decision.exit_code, decision.body["headline"]) == (0, "GO for a2t, i2t"), decision.body["gates"]
    assert decision.body["tasks"] == ["a2t", "i2t"]
    left_out = {one["reason"] for one in decision.body["not_applicable"] if one["slice"] == "t2a"}
    assert left_out == {"the profile's `tasks` leave t2a out"}


def test_a_gate_without_an_object_gives_every_reason_for_it(profile):
    """Only t2i is left out by `tasks`: a codec for pictures is there."""
    profile["codecs"]["audio"], profile["tasks"] = None, ["i2t"]
    policy = load_policy(profile=profile)
    verdict = decide_evidence(policy.gate("B3"), fixture("B3", "good"), policy, "0" * 64)
    assert verdict.verdict == "NOT_APPLICABLE"
    assert verdict.reason == "the profile has no audio codec; the profile's `tasks` leave t2i out"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tasks: [a2t]\ncodecs: {audio: null}\n", "a task of the run without a codec; found a2t"),
        ("tasks: [t2i, t2v]\n", "t2v"),
        ("tasks: [i2t, t2i]\nmixture: {weights: {t2i: 0}}\n", "a task of the run without a weight"),
    ],
)
def test_tasks_that_cannot_be(tmp_path, text, said):
    path = tmp_path / "run.yaml"
    path.write_text("extends: smoke\nname: mine\n" + text)
    with pytest.raises(UserError, match=re.escape(said)):
        load_profile(str(path))


@pytest.mark.parametrize(
    ("sources", "real"),
    [
        ([{"reader": "generated"}], False),
        ([{"reader": "generated"}, {"reader": "llava_pretrain"}], False),
        ([{"reader": "generated", "sounds": 0}, {"reader": "clotho"}], True),
        ([{"reader": "generated"}, {"reader": "clotho"}], False),
        ([{"reader": "captions"}], True),
        ([{"reader": "llava_pretrain"}], False),
    ],
)
def test_real_sounds_are_those_of_a_corpus_without_generated_ones(profile, sources, real):
    profile["corpus"]["sources"] = sources
    assert ("real_audio" in load_policy(profile=profile).holds) == real


def test_one_check_stated_twice_is_refused(gates_folder, profile):
    profile["gates"] = [
        {"gate": "B1", "check": "falls", "threshold": 0.9, "reason": "we are stricter"},
        {"gate": "B1", "check": "falls", "severity": "info", "reason": "we are stricter"},
    ]
    with pytest.raises(UserError, match=r"gates\[1\]: a check is stated twice; found B1.falls"):
        load_policy(gates_folder / "policy.yaml", profile)
    del profile["gates"]
    path = gates_folder / "policy.yaml"
    kept = path.read_text()
    path.write_text(kept.replace("  B1:\n", "  B1:\n    falls: {severity: info, threshold: 0}\n"))
    with pytest.raises(UserError, match="'falls' is stated twice"):
        load_policy(path, profile)
    path.write_text(kept)
    script = script_of(gates_folder, "B1")
    text = script.read_text()
    script.write_text(text + 'GATE["checks"].append(GATE["checks"][0])\n')
    with pytest.raises(UserError, match="a check is stated twice; found beats_unigram"):
        load_policy(path, profile)
    script.write_text(text)
    (gates_folder / "b1_again.py").write_text(text)
    with pytest.raises(UserError, match="two scripts state one gate"):
        load_policy(path, profile)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("GATE = {", "the gate script does not run; found SyntaxError"),
        ("import nothing_like_this\n", "the gate script does not run; found ModuleNotFoundError"),
        ("", "found nothing"),
        ('GATE = {"id": "B2", "title": "x", "stage": "train", "blocks": "release", "checks": []}\n', "checks"),
    ],
)
def test_a_broken_script_is_one_clear_line(gates_folder, text, said):
    script_of(gates_folder, "B1").write_text(text)
    with pytest.raises(UserError) as caught:
        load_policy(gates_folder / "policy.yaml")
    assert "b1_losses.py" in str(caught.value)
    if said != "found nothing":
        assert said in str(caught.value)


def test_a_gate_of_a_team_s_own_is_decided_too(gates_folder, profile):
    """The defaults do not know it, so it can only be stricter."""
    text = script_of(gates_folder, "B1").read_text().replace('"id": "B1"', '"id": "Z1"')
    (gates_folder / "z1_own.py").write_text(text)
    path = gates_folder / "policy.yaml"
    numbers = re.search(r"  B1:\n((?:    .*\n)+)", path.read_text())[1]
    path.write_text(path.read_text() + "  Z1:\n" + numbers)
    policy = load_policy(path, profile)
    assert len(policy.gate("Z1").checks) == len(policy.gate("B1").checks) and policy.softenings == ()


@pytest.mark.parametrize(("gate_id", "floor"), [(gate, one) for gate, floors in FLOORS.items() for one in floors])
def test_no_floor_asks_more_than_the_default(gate_id, floor):
    check = GATES[gate_id].check(floor.id)
    assert check is not None and check.min_n >= floor.min_n and GATES_FOLDER.is_dir()


@pytest.mark.parametrize(
    ("gate", "check", "changes"),
    [
        ("B3", "win_swapped", {"threshold": 0.0}),
        ("B3", "win_empty", {"threshold": 0.5}),
        ("B3", "win_swapped", {"min_n": 20}),
        ("B3", "groups", {"threshold": 8}),
        ("R1", "gap", {"min_n": 20}),
        ("A3", "mask", {"severity": "info"}),
        ("A3", "kept", {"threshold": 0.5}),
        ("C1", "decode", {"min_n": 8}),
        ("Q1", "mean", {"threshold": 0.5}),
        ("Q1", "attributes", {"severity": "info"}),
    ],
)
def test_no_profile_reaches_a_floor(gates_folder, profile, gate, check, changes):
    profile["gates"] = [{"gate": gate, "check": check, **changes, "reason": "because I can"}]
    with pytest.raises(UserError, match="a floor that no file can lower"):
        load_policy(gates_folder / "policy.yaml", profile)
