"""Every key of a profile is explained, and a resolved profile says where each value comes from."""

import pytest

from mmpt.build.help_pages import gate_lines, key_lines, profile_lines
from mmpt.build.stage_table import STAGES
from mmpt.gating.policy import load_policy
from mmpt.profile import load_profile
from mmpt.profile.keys import PAGE, find, keys, left_behind, origins, page, schema_keys
from mmpt.store.errors import UserError


def test_every_key_of_the_schema_is_explained_once_and_no_other():
    assert set(keys()) == schema_keys()


def test_the_page_is_what_is_drawn():
    assert PAGE.read_text() == page(), "run `python -m mmpt.profile.keys`"


def test_a_section_gives_its_keys_and_a_misspelt_key_the_nearest():
    groups = ["lora", "embed", "head", "layer_norm"]
    assert [key.name for key in find("train.lr")] == [f"train.lr.{group}" for group in groups]
    assert find("golden.per_task")[0].type == "integer from 1 up"
    with pytest.raises(UserError, match="did you mean 'train.clip'"):
        find("train.clp")


def test_help_names_the_stages_that_read_a_key():
    assert "  read by golden" in key_lines("golden.per_task", STAGES)
    assert len(key_lines(None, STAGES)) > len(keys())


def test_a_part_of_a_keys_name_gives_all_keys_that_have_it():
    assert {"train.steps", "warmup.steps"} <= {key.name for key in find("steps")}
    assert {"warmup.lr", "train.lr.lora"} <= {key.name for key in find("lr")}


def test_help_names_the_present_value_and_its_file():
    profile = load_profile("smoke")
    assert f"  here: {profile.data['train']['steps']} (smoke.yaml)" in key_lines("train.steps", STAGES, profile)
    assert key_lines("mixture.weights", STAGES, profile)[2].startswith("  here: {a2t: ")
    assert not any("here:" in line for line in key_lines("after", STAGES, profile))


def test_help_tells_what_a_check_asks_and_of_one_that_only_informs_nothing():
    policy = load_policy(profile=load_profile("smoke").data)
    read_back = gate_lines(policy, "B3", "read_back")
    assert "    read_back_win_rate: the value >= 0.7 and >= truth_read_win_rate - 0.15; n >=" in read_back
    assert not any("output_gap" in line for line in read_back), "one check alone"
    assert "    win_rate_swapped: the value >= 0.7 (warns below 0.8); n >= 256; t2a, t2i" in gate_lines(policy, "B3")
    scores = gate_lines(policy, "T1")
    assert "    clip_score: t2i" in scores and scores[1].endswith("warns, blocks nothing")
    assert max(map(len, scores[:-1])) <= 80


def test_help_says_what_a_profile_changed_of_a_check():
    own = [{"gate": "B1", "check": "falls", "threshold": 0.02, "reason": "a short trial"}]
    text = " ".join(gate_lines(load_policy(profile={**load_profile("smoke").data, "gates": own}), "B1", "falls"))
    assert "threshold 0.1 -> 0.02 by the profile: a short trial" in text


def test_help_explains_every_gate_with_its_bounds():
    policy = load_policy(profile=load_profile("smoke").data)
    for gate_id, gate in policy.gates.items():
        text = "\n".join(gate_lines(policy, gate_id))
        assert gate.title in text and all(f"  {check.id} (" in text for check in gate.checks) and "{run}" not in text


def test_gates_that_are_not_inherited_are_named(tmp_path):
    """A profile that extends one with `gates:` is judged by the defaults, and stopped at W1 without a word on why."""
    entries = (
        "gates: [{gate: W1, check: gap, severity: warn, reason: a short run}, {gate: B1, check: falls, reason: x}]"
    )
    (tmp_path / "parent.yaml").write_text(f"extends: smoke\nname: parent\n{entries}\n")
    (tmp_path / "mine.yaml").write_text(
        "extends: parent.yaml\nname: mine\ngates: [{gate: B1, check: falls, reason: y}]\n"
    )
    assert left_behind(tmp_path / "mine.yaml") == {"parent.yaml": ["W1.gap"]}
    assert left_behind(tmp_path / "parent.yaml") == {}


def test_each_value_names_the_file_that_states_it(tmp_path):
    (tmp_path / "parent.yaml").write_text("extends: smoke\nname: parent\ntrain: {steps: 5}\n")
    (tmp_path / "mine.yaml").write_text("extends: parent.yaml\nname: mine\ntrain: {clip: 0.5}\n")
    profile = load_profile(str(tmp_path / "mine.yaml"))
    found = origins(profile.path, profile.data)
    assert (found["train.clip"], found["train.steps"], found["train.row_len"]) == (
        "mine.yaml",
        "parent.yaml",
        "smoke.yaml",
    )
    lines = profile_lines(profile, load_policy(profile=profile.data))
    assert any(line.startswith("  clip: 0.5 ") and line.endswith("# mine.yaml") for line in lines)
