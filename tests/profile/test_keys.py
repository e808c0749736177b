"""Every key of a profile is explained, and a resolved profile says where each value comes from."""

import pytest

from mmpt.build.help_pages import gate_lines, key_lines, profile_lines
from mmpt.build.stage_table import STAGES
from mmpt.gating.policy import load_policy
from mmpt.profile import load_profile
from mmpt.profile.keys import PAGE, find, keys, origins, page, schema_keys
from mmpt.store.errors import UserError


def test_every_key_of_the_schema_is_explained_once_and_no_other():
    assert set(keys()) == schema_keys()


def test_the_page_is_what_is_drawn():
    assert PAGE.read_text() == page(), "run `python -m mmpt.profile.keys`"


def test_a_section_gives_its_keys_and_a_misspelt_key_the_nearest():
    groups = ["lora", "embed", "head", "layer_norm"]
    assert [key.name for key in find("train.lr")] == [f"train.lr.{group}" for group in groups]
    assert find("golden.per_task")[0].type == "integer >= 1"
    with pytest.raises(UserError, match="did you mean 'train.clip'"):
        find("train.clp")


def test_help_names_the_stages_that_read_a_key():
    assert "  read by golden" in key_lines("golden.per_task", STAGES)
    assert len(key_lines(None, STAGES)) > len(keys())


def test_help_explains_every_gate_with_its_bounds():
    policy = load_policy(profile=load_profile("smoke").data)
    for gate_id, gate in policy.gates.items():
        text = "\n".join(gate_lines(policy, gate_id))
        assert gate.title in text and all(f"  {check.id} (" in text for check in gate.checks) and "{run}" not in text


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
