"""`doit records`: every record that was left out, cut or shortened is named, with the reason; one is shown in full."""

import json
import shutil

import pytest

from mmpt.build import commands_records
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


def without(run, folder, *names):
    """A copy of the run in which these files of its stages are not there."""
    shutil.copytree(run.root, folder, ignore=shutil.ignore_patterns("train", "work", "elsewhere", *names))
    return folder


def test_records_of_a_modality_without_a_codec_are_not_passed_over(run, tmp_path):
    """`codecs.audio: null` takes 50 of 100 records out of the run, and no stage calls that an error."""
    root = without(run, tmp_path / "mini", "audio*", "a2t*", "t2a*")
    found = checked(Records(root, *of_profile(run)).overview())
    assert (found["read"], found["unused"], set(found["tasks"])) == (100, {"audio": 50}, {"i2t", "t2i"})
    assert "50 audio records are not used: no codecs.audio" in overview_lines(found, 1)
    name = next(row["id"] for row in read_jsonl(root / "manifest/data/manifest.jsonl") if row["modality"] == "audio")
    story = checked(Records(root, *of_profile(run)).story(name))
    assert [(one["stage"], one["why"]) for one in story["lost"]] == [("codecs", "no codec for its modality")]


def test_what_was_imported_has_its_errors_once_and_its_records_counted(run, tmp_path):
    root = without(run, tmp_path / "mini", "manifest", "corpus")
    one = {"id": "gone", "kind": "bad_line", "source": "x", "where": "x/0.tar", "what": "duplicate id"}
    unnamed = {**one, "id": None, "what": "cut off"}
    for stage, rows in (("split", [one, unnamed]), ("shards", [one, {**one, "id": "late", "what": "empty text"}])):
        (root / stage / "data" / "errors.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = checked(Records(root, *of_profile(run)).overview())
    assert found["read"] == sum(found["sides"].values()) == 100
    lost = [(row["stage"], row["id"]) for row in found["lost"]]
    assert lost == [("split", "gone"), ("split", ""), ("shards", "late")]


def test_examples_of_other_shards_are_not_read_as_these_ones_s(run, tmp_path, monkeypatch):
    """Their rows are places in shards that are not there any more."""
    definition = {"slice": {"examples": {"max_seq_len": 99}}, "inputs": {"shards": "old", "token_space": "t"}}
    monkeypatch.setattr(commands_records, "read_receipt", lambda path: None)
    monkeypatch.setattr(commands_records, "definition_of", lambda receipt: definition)
    there = {"token_space": "t", "shards": "new"}
    monkeypatch.setattr(commands_records, "manifest_digest", lambda project, name: there[name])
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "receipt.json").touch()
    project = type(run)(tmp_path, run.profile)
    assert commands_records._built_with(project) == (99, None, True)
    found = checked(Records(run.root, 99, None, stale=True).overview())
    assert not found["tasks"] and any("`doit examples`" in line for line in overview_lines(found, 1))
    (shard,) = run.data("shards").glob("image-train-00000.jsonl")
    assert not checked(Records(run.root, 99, None, stale=True).story(read_jsonl(shard)[0]["id"]))["tasks"]
    definition["inputs"]["shards"] = "new"
    assert commands_records._built_with(project) == (99, None, False)
