"""`doit records`: every record that was left out, cut or shortened is named, with the reason; one is told whole."""

import json
import shutil

import pytest

from mmpt.build.commands_records import overview_lines, story_lines
from mmpt.evaluate.records import Records
from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError
from mmpt.store.jsonl import read_jsonl
from mmpt.store.schema import validate


def checked(result):
    document = {"schema": "command/1", "command": "records", "profile": "mini", "exit_code": 0, "result": result}
    validate(json.loads(json.dumps(document)), "commands", where="records --json")
    return result


def of_profile(run):
    section = run.profile.data["examples"]
    return section["max_seq_len"], section.get("max_prompt_tokens")


def test_its_counts_are_those_of_the_stages(run):
    found = checked(Records(run.root, *of_profile(run)).overview())
    drops = read_json(run.data("examples") / "drops.json")
    assert found["read"] == sum(found["sides"].values()) == 100 and not found["lost"]
    for task, one in found["tasks"].items():
        assert one["kept"] == drops[task]["kept"]
        assert len(one["dropped"]) == sum(drops[task]["dropped"].values())
        assert len(one["shortened"]) == drops[task]["shortened_prompt"]


def test_dropped_and_shortened_records_are_named_with_their_lengths(run, tmp_path):
    """Examples built for 52 tokens: long captions are dropped as targets and shortened as prompts."""
    root = tmp_path / "mini"
    shutil.copytree(run.root, root, ignore=shutil.ignore_patterns("train", "work", "elsewhere"))
    data = json.loads(json.dumps(run.profile.data))
    data["examples"].update(max_seq_len=52, max_prompt_tokens=8)
    short = type(run)(root, type(run.profile)(data, run.profile.path))
    shutil.rmtree(root / "examples")
    short.build("examples")
    found = checked(Records(root, 52, 8).overview())
    drops = read_json(root / "examples" / "data" / "drops.json")
    assert found["tasks"]["a2t"]["dropped"] and found["tasks"]["t2a"]["shortened"]
    for task, one in found["tasks"].items():
        assert len(one["dropped"]) == sum(drops[task]["dropped"].values())
        assert len(one["shortened"]) == drops[task]["shortened_prompt"]
    assert "more than examples.max_seq_len 52" in found["tasks"]["a2t"]["dropped"][0]["why"]
    assert any("and" in line and "more: --all" in line for line in overview_lines(found, 1))
    name = found["tasks"]["a2t"]["dropped"][0]["id"]
    story = checked(Records(root, 52, 8).story(name))
    assert story["tasks"]["a2t"].startswith("dropped: too long") and story["split"]
    assert any("dropped: too long" in line for line in story_lines(story))


def test_the_tokens_of_a_record_are_those_of_its_shard(run):
    row = read_jsonl(next(run.data("shards").glob("audio-train-*.jsonl")))[1]
    story = checked(Records(run.root, *of_profile(run)).story(row["id"]))
    assert story["tokens"]["row"] == 1 and len(story["tokens"]["ids"]) == row["frames"] * row["n_codebooks"]
    assert story["record"]["caption"] == row["caption"] and story["split"] == "train"


def test_a_record_that_was_left_out_is_found_by_its_id(run, tmp_path):
    shutil.copytree(run.data("corpus"), tmp_path / "mini" / "corpus" / "data")
    row = {"id": "gone", "kind": "missing", "source": "x", "where": "x/captions.jsonl:3", "what": "no such file"}
    (tmp_path / "mini" / "corpus" / "data" / "errors.jsonl").write_text(json.dumps(row) + "\n")
    story = checked(Records(tmp_path / "mini", 128, 64).story("gone"))
    assert story["lost"] == [{"stage": "corpus", "id": "gone", "where": "x/captions.jsonl:3", "why": "no such file"}]
    assert "gone" in "\n".join(overview_lines(checked(Records(tmp_path / "mini", 128, 64).overview()), None))


def test_of_nothing_there_is_nothing_to_say(run, tmp_path):
    with pytest.raises(UserError, match="no records yet"):
        Records(tmp_path, 128, 64)
    with pytest.raises(UserError, match="no such record; found nobody"):
        Records(run.root, *of_profile(run)).story("nobody")
