"""Import stages from the run's files to audited shards, and what each refuses or leaves to a gate."""

import copy
import dataclasses
import importlib
import json
import shutil

import numpy as np
import pytest
import yaml

from mmpt.build.imported import table_for
from mmpt.build.stage_table import STAGES, by_name
from mmpt.gating import load_policy
from mmpt.gating.verdicts import decide_evidence
from mmpt.profile import load_profile
from mmpt.shards.example_set import ExampleSet
from mmpt.shards.shard_set import ShardSet
from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError
from mmpt.store.jsonl import read_jsonl
from mmpt.store.schema import validate_file
from mmpt.store.stage import SliceView, StageContext
from mmpt.tokens.space import load
from tests.shards.upstream_run import build_run, open_tokenizer_of, write_tars, write_uti

STEPS = ("split", "codecs", "token_space", "shards", "shard_audit", "examples")
EVIDENCE = {"S2": "split", "S3": "shard_audit"}


class Imported:
    """The import stages of one profile, run in order below a folder."""

    def __init__(self, root, profile):
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        (root / "run.yaml").write_text(yaml.safe_dump(profile))
        self.profile = load_profile(str(root / "run.yaml"))
        self.table = by_name(table_for(STAGES, self.profile))

    def run(self, *names):
        for name in names or STEPS:
            stage = self.table[name]
            module, _, function = stage.body.partition(":")
            out = self.root / name
            out.mkdir()
            inputs = {one: self.root / one for one in stage.inputs}
            view = SliceView(self.profile.data, stage.slice, name)
            context = StageContext(name, view, inputs, out, self.root / "work", seed=1)
            getattr(importlib.import_module(module), function)(context)
            for output in stage.outputs:
                for path in sorted(out.glob(output.glob)) if output.schema else ():
                    validate_file(path, output.schema)
        return self

    def verdict(self, gate):
        policy = load_policy(profile=self.profile.data)
        evidence = read_json(self.root / EVIDENCE[gate] / f"evidence/{gate}.json")
        return decide_evidence(policy.gate(gate), evidence, policy, "0" * 64)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = build_run(tmp_path_factory.mktemp("reference"), 24, 24)
    (run.root / "checkpoint_24").mkdir()
    return run


@pytest.fixture
def run(whole, tmp_path):
    """A copy of the run, to be damaged."""
    shutil.copytree(whole.root, tmp_path / "run")
    return dataclasses.replace(whole, root=tmp_path / "run", items=copy.deepcopy(whole.items))


def rewrite(run):
    shutil.rmtree(run.root / "tokenized")
    write_tars(run)


def test_the_runs_tokens_arrive_unchanged_and_pass_s2_and_s3(whole, tmp_path):
    imported = Imported(tmp_path / "out", whole.profile()).run()
    space = load(imported.root / "token_space")
    kept = {}
    for modality in ("audio", "image"):
        for side in ("train", "val", "test"):
            shards = ShardSet.open(imported.root / "shards", modality, side, space)
            kept |= {shards.record(i)["id"]: (side, shards.ids(i), shards.record(i)) for i in range(len(shards))}
    assert len(kept) == len(whole.items)
    for one in whole.items:
        side, ids, record = kept[one["id"]]
        assert np.array_equal(ids, one["ids"]) and (side == "train") == (one["side"] == "train")
        assert record["token_space"] == space.digest and record["license"] == "Clotho"
    assert (imported.verdict("S2").verdict, imported.verdict("S3").verdict) == ("GO", "GO")
    examples = ExampleSet.open(imported.root / "examples", imported.root / "shards", space, "t2a", "train")
    texts = {one["id"]: one["text"] for one in whole.items}
    assert all(examples.text_ids(i).tolist() == texts[examples.record(i)["id"]] for i in range(len(examples)))


def test_the_folder_of_a_token_space_may_be_named(whole, tmp_path):
    profile = whole.profile()
    (tmp_path / "space").mkdir()
    for name in ("token_space.json", "token_space.sha256"):
        shutil.copy(whole.root / name, tmp_path / "space" / name)
    profile["inputs"]["token_space"] = str(tmp_path / "space")
    imported = Imported(tmp_path / "out", profile).run("split", "codecs", "token_space")
    assert load(imported.root / "token_space").digest == whole.space.digest


def test_what_needs_media_does_not_apply_and_is_named(whole, tmp_path):
    verdict = Imported(tmp_path / "out", whole.profile()).run().verdict("S3")
    left = {check.id for check in verdict.checks if check.status == "not_applicable"}
    assert {"reencode", "reencode_items", "reconstruction"} <= left
    assert not {"segments", "lengths", "digests", "decode"} & left


def test_stage_4_sequences_give_the_same_shards_as_the_tars(whole, tmp_path):
    profile = whole.profile()
    del profile["inputs"]["shards"]
    sides = {side: [str(whole.root / f"stage4_{side}.jsonl")] for side in ("train", "eval")}
    profile["inputs"]["jsonl"] = sides
    one = Imported(tmp_path / "tars", whole.profile()).run()
    two = Imported(tmp_path / "lines", profile).run()
    assert two.verdict("S3").verdict == "GO"
    for modality in ("audio", "image"):
        first, second = (
            {
                record["id"]: (record["samples"], shards.ids(i).tolist())
                for shards in [ShardSet.open(imported.root / "shards", modality, "train")]
                for i, record in enumerate(shards.records)
            }
            for imported in (one, two)
        )
        assert first == second


def test_stage_3_sequences_carry_no_digest_and_do_not_pass(whole, tmp_path):
    profile = whole.profile()
    del profile["inputs"]["shards"]
    sides = {side: [str(whole.root / f"stage3_{side}.jsonl")] for side in ("train", "eval")}
    profile["inputs"]["jsonl"] = sides
    verdict = Imported(tmp_path / "out", profile).run().verdict("S3")
    assert verdict.verdict == "NO_GO" and verdict.failing()[0].id == "digests"


def test_one_record_of_another_token_space_is_a_no_go(run, tmp_path):
    run.items[3]["sha"] = "a" * 64
    rewrite(run)
    verdict = Imported(tmp_path / "out", run.profile()).run().verdict("S3")
    assert verdict.verdict == "NO_GO" and [(c.id, c.value) for c in verdict.failing()] == [("digests", 1)]


def test_an_id_outside_its_segment_is_a_no_go(run, tmp_path):
    ids = run.items[0]["ids"].copy()
    ids[1] = ids[0]  # an id of codebook 0 at the place of codebook 1
    run.items[0]["ids"] = ids
    rewrite(run)
    verdict = Imported(tmp_path / "out", run.profile()).run().verdict("S3")
    assert verdict.verdict == "NO_GO" and ("segments", 1) in [(c.id, c.value) for c in verdict.failing()]


def leaky(run):
    """A held-out caption whose recording has another caption in train."""
    pair = [one for one in run.items if one["id"].startswith("clotho:Sound 1.wav")]
    assert len(pair) == 2
    pair[0]["side"], pair[1]["side"] = "train", "eval"
    rewrite(run)


def test_a_recording_on_both_sides_is_a_no_go_and_mend_moves_it_to_train(run, tmp_path):
    leaky(run)
    kept = Imported(tmp_path / "keep", run.profile()).run("split").verdict("S2")
    assert kept.verdict == "NO_GO" and [check.id for check in kept.failing()] == ["origins"]
    profile = run.profile()
    profile["inputs"]["split"] = "mend"
    mended = Imported(tmp_path / "mend", profile).run("split")
    assert mended.verdict("S2").verdict == "GO"
    sides = {row["id"]: row["split"] for row in read_jsonl(mended.root / "split/split.jsonl")}
    assert sides["clotho:Sound 1.wav:0"] == sides["clotho:Sound 1.wav:1"] == "train"


def text_outside(run):
    run.items[0]["text"] = [run.space.new_start, 1]


def other_tokenizer(run):
    encode = open_tokenizer_of(run.root / "base")
    run.items[0]["text"] = [one for letter in "a red circle" for one in encode(letter)]


@pytest.mark.parametrize(
    ("damage", "said"),
    [(text_outside, "text id out of range"), (other_tokenizer, "text ids are not of this tokenizer")],
)
def test_bad_text_is_refused_or_left_out(run, tmp_path, damage, said):
    damage(run)
    rewrite(run)
    with pytest.raises(UserError, match=said) as error:
        Imported(tmp_path / "fail", run.profile()).run()
    assert error.value.exit_code == 2 and "sounds/" in str(error.value)
    skipping = run.profile(corpus={"on_bad_record": "skip"})
    imported = Imported(tmp_path / "skip", skipping).run()
    (row,) = read_jsonl(imported.root / "shards/errors.jsonl")
    assert row["id"] == run.items[0]["id"] and said in row["what"]


def test_a_token_space_whose_digest_is_not_its_own_is_refused(run, tmp_path):
    content = json.loads((run.root / "token_space.json").read_text())
    content["audio_codec"]["device"] = "cpu"
    (run.root / "token_space.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="token_space.sha256 doesn't belong to this token_space.json"):
        Imported(tmp_path / "out", run.profile()).run()
    (run.root / "token_space.sha256").unlink()
    with pytest.raises(UserError, match="no token_space.sha256 beside the token space"):
        Imported(tmp_path / "two", run.profile()).run()


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("audio_codec", "n_codebooks", 4, "found n_codebooks 2; expected n_codebooks 4"),
        ("audio_codec", "target_sample_rate", 48000, "found sample_rate 16000"),
        ("audio_codec", "serialization", "delayed", "unknown serialization"),
        ("image_tokenizer", "codebook_size", 8192, "found codebook_size 48"),
    ],
)
def test_a_codec_that_is_not_the_one_of_uti_yaml_is_refused(run, tmp_path, section, key, value, said):
    write_uti(run.root)
    content = yaml.safe_load((run.root / "uti.yaml").read_text())
    content[section][key] = value
    (run.root / "uti.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=said):
        Imported(tmp_path / "out", run.profile()).run("split", "codecs")


@pytest.mark.parametrize("text", ["a: [", "- 1", "base_text_model: x\n"])
def test_a_uti_yaml_that_is_none_is_refused(run, tmp_path, text):
    (run.root / "uti.yaml").write_text(text)
    with pytest.raises(UserError, match="not YAML|not a uti.yaml"):
        Imported(tmp_path / "out", run.profile()).run("split", "codecs")


def test_a_codec_that_would_have_to_be_fitted_is_refused(run, tmp_path):
    profile = run.profile()
    del profile["codecs"]["image"]["path"]
    with pytest.raises(UserError, match="needs the codec that made its tokens"):
        Imported(tmp_path / "out", profile).run("split", "codecs")
