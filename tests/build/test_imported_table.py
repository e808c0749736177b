"""The stage table of a profile with `inputs:`."""

import json
from pathlib import Path

import pytest
import yaml

from mmpt.build.code import CodeIndex
from mmpt.build.declaration import check_table, measured_by
from mmpt.build.fingerprint import external
from mmpt.build.imported import IMPORTED, table_for
from mmpt.build.project import Project
from mmpt.build.stage_table import STAGES
from mmpt.gating import load_policy
from mmpt.profile import Profile, load_profile
from mmpt.profile.missing import missing
from mmpt.store.errors import UserError
from mmpt.store.schema import SCHEMAS

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    """A folder with everything that a profile of inputs names, empty."""
    for name in ("clotho/train", "checkpoint_24", "checkpoint_200", "lora_200", "base"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("uti.yaml", "token_space.json", "token_space.sha256", "train.jsonl", "eval.jsonl"):
        (tmp_path / name).write_text(name)
    return tmp_path


def inputs(**changes):
    given = {
        "uti": "uti.yaml",
        "token_space": "token_space.json",
        "stage3": "checkpoint_24",
        "shards": [{"name": "clotho", "path": "clotho"}],
        **changes,
    }
    return {key: value for key, value in given.items() if value is not None}


STAGE4 = {"rows": "checkpoint_200", "lora": "lora_200", "step": 200}


def profile(folder, section=None, **more):
    data = {"extends": "smoke", "name": "brought", "base": {"kind": "pretrained", "path": "./base"}, **more}
    (folder / "run.yaml").write_text(yaml.safe_dump({**data, "inputs": section or inputs()}))
    return load_profile(str(folder / "run.yaml"))


def test_a_profile_without_inputs_keeps_the_table():
    assert table_for(STAGES, load_profile("smoke")) == STAGES


@pytest.mark.parametrize("stage4", [None, STAGE4])
def test_the_imported_table_can_be_built_and_leaves_no_gate_open(folder, stage4):
    read = profile(folder, inputs(stage4=stage4))
    table = table_for(STAGES, read)
    check_table(table)
    names = [stage.name for stage in table]
    assert "corpus" not in names and "manifest" not in names
    assert {stage.name for stage in STAGES} - set(names) == {"corpus", "manifest"}
    policy = load_policy(profile=read.data)
    open_gates = set(policy.gates) - set(measured_by(table))
    excused = {gate for gate in open_gates if policy.gate(gate).requires not in policy.holds}
    assert open_gates == excused == ({"S1", "B2"} if stage4 else {"S1"})
    assert ("mmpt.train.imported:train" in [stage.body for stage in table]) == bool(stage4)


def test_bodies_schemas_and_slices_of_the_import_stages_exist():
    index = CodeIndex({"mmpt": REPO / "mmpt"})
    schema = json.loads((SCHEMAS / "profile.schema.json").read_text())
    for stage in IMPORTED.values():
        index.closure(stage.body)
        for output in stage.outputs:
            assert output.schema is None or (SCHEMAS / f"{output.schema}.schema.json").is_file()
        for key in (*stage.slice, *stage.external):
            node = schema
            for part in key.split("."):
                assert part in node["properties"], (stage.name, key)
                node = node["properties"][part]


def test_paths_are_taken_from_the_profiles_folder_and_their_content_counts(folder):
    section = inputs(stage4=STAGE4, jsonl={"train": ["train.jsonl"], "eval": ["eval.jsonl"]})
    read = profile(folder, section)
    assert read.data["inputs"]["jsonl"]["train"] == [str(folder / "train.jsonl")]
    project = Project(table_for(STAGES, read), read, folder)
    found = {stage.name: set(external(project, stage)) for stage in project.stages}
    assert found["split"] == {
        "inputs.shards.clotho",
        "inputs.jsonl.train.0",
        "inputs.jsonl.eval.0",
        "inputs.token_space",
        "inputs.token_space.sha256",
    }
    assert found["train"] == {"inputs.stage4.rows", "inputs.stage4.lora"}
    assert read.media_roots() == {}


@pytest.mark.parametrize(
    ("section", "more", "said"),
    [
        (inputs(shards=None), {}, "inputs: no records to import"),
        (inputs(), {"base": {"kind": "tiny"}}, "base.kind: imported tokens belong to a base model"),
        (inputs(stage4={"rows": "checkpoint_200"}), {}, "inputs.stage4: missing 'lora'"),
        (inputs(token_spce="x"), {}, "unknown key 'token_spce'; did you mean 'token_space'"),
        (inputs(split="mended"), {}, 'inputs.split: found "mended"; expected one of keep, mend'),
        ({"uti": "uti.yaml"}, {}, "inputs: missing"),
    ],
)
def test_bad_inputs_are_one_clear_line(folder, section, more, said):
    with pytest.raises(UserError) as error:
        profile(folder, section, **more)
    assert said in str(error.value) and error.value.exit_code == 2


@pytest.mark.parametrize(
    ("section", "key"),
    [
        (inputs(uti="nowhere.yaml"), "inputs.uti"),
        (inputs(shards=[{"name": "a", "path": "nowhere"}]), "inputs.shards.a"),
        (inputs(stage4={**STAGE4, "lora": "nowhere"}), "inputs.stage4.lora"),
    ],
)
def test_a_file_of_the_upstream_run_that_is_not_there_is_missing(folder, section, key):
    read = profile(folder, section)
    keys = {name for stage in table_for(STAGES, read) for name in stage.external}
    assert [one.key for one in missing(read, keys)] == [key]


def test_generated_sources_left_over_from_an_inherited_profile_do_not_count(folder):
    read = profile(folder)
    assert isinstance(read, Profile) and read.data["corpus"]["sources"]
    holds = load_policy(profile=read.data).holds
    assert "generated_corpus" not in holds and "raw_media" not in holds and "real_audio" in holds
