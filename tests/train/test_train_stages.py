"""The stage bodies base, warmup and train on a small real run: outputs, evidence, kills."""

import copy
import json
import os
import shutil
import signal

import pytest

from mmpt.model.adapter import WEIGHTS
from mmpt.stages.base import base
from mmpt.stages.train import train
from mmpt.stages.warmup import warmup
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError
from mmpt.store.model_files import check_positions
from mmpt.store.schema import validate_file
from mmpt.store.stage import SliceView, StageContext
from mmpt.store.tensors import load_tensors, read_meta
from mmpt.train import preparation
from tests.gating.gate_evidence import failing, judged
from tests.killed_fork import dies
from tests.model.tiny_model import small_model
from tests.shards.world import PROFILE, build_world

BODIES = {"base": base, "warmup": warmup, "train": train}
STEPS = 14
LEARNING = {
    "ops": {"backend": "auto"},
    "base": {
        "kind": "tiny",
        "config": dict(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            intermediate_size=16,
            tie_word_embeddings=True,
        ),
        "pretrain": {"steps": 4, "lr": 1e-2, "tokens_per_step": 512},
    },
    "lora": {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "down_proj"]},
    "warmup": {"steps": 3, "lr": 1e-2, "tokens_per_step": 512},
    "mixture": {
        "weights": {"a2t": 0.2, "i2t": 0.2, "t2a": 0.3, "t2i": 0.3},
        "text_replay": 0.1,
        "ramp": 0.2,
        "prompt_dropout": 0.1,
    },
    "train": {
        "steps": STEPS,
        "tokens_per_step": 768,
        "row_len": 192,
        "lr": {"lora": 5e-3, "embed": 1e-2, "head": 1e-2},
        "warmup_steps": 2,
        "min_lr_ratio": 0.1,
        "weight_decay": 0.0,
        "betas": [0.9, 0.95],
        "clip": 5.0,
        "loss": {"support": "full"},
        "log_every": 3,
        "save_every": 8,
    },
}


class Pipeline:
    """A world whose base, warmup and train stages can be run again into any folder."""

    def __init__(self, root):
        self.root = root
        small = copy.deepcopy(PROFILE)
        small["corpus"]["sources"][0].update(pictures=60, sounds=40)
        build_world(root, small)
        self.profile = {**small, **LEARNING}

    def run(self, stage, name=None, changes=None, on_log=lambda line: None, adjust=lambda ctx: None):
        name, profile = name or stage, {**self.profile, **(changes or {})}
        out, work = self.root / name, self.root / f"{name}.work"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        work.mkdir(exist_ok=True)
        inputs = {path.name: path for path in self.root.iterdir() if path.is_dir()}
        ctx = StageContext(stage, SliceView(profile, tuple(profile), stage), inputs, out, work, seed=7, on_log=on_log)
        adjust(ctx)
        BODIES[stage](ctx)
        return out


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, one_thread):
    made = Pipeline(tmp_path_factory.mktemp("pipeline"))
    for stage in BODIES:
        made.run(stage)
    return made


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def metrics_of(folder, gate):
    validate_file(folder / "evidence" / f"{gate}.json", "evidence")
    rows = json.loads((folder / "evidence" / f"{gate}.json").read_bytes())["metrics"]
    return {(row["name"], row["slice"]): row for row in rows}


def test_base_is_a_hugging_face_folder_with_its_tokenizer(pipeline):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = pipeline.root / "base"
    validate_file(folder / "base.json", "base")
    model, tokenizer = (kind.from_pretrained(folder / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer("number 7 follows number 6.")["input_ids"]
    assert tokenizer.decode(ids) == "number 7 follows number 6." and max(ids) < model.config.vocab_size


def test_warm_up_leaves_an_adapter_of_this_token_space(pipeline):
    folder = pipeline.root / "warmup"
    assert (
        read_meta(folder / "checkpoint" / WEIGHTS)["token_space"]
        == read_meta(pipeline.root / "train" / "checkpoints" / "step_0" / WEIGHTS)["token_space"]
    )
    validate_file(folder / "metrics.jsonl", "metric_row")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 3 and rows[-1]["supervised_t2a"] == 0 and rows[-1]["supervised_a2t"] > 0


def lora_of(folder):
    return [value for key, value in load_tensors(folder / "checkpoint" / WEIGHTS).items() if ".lora_B." in key]


def test_warm_up_trains_lora_and_replays_text_where_the_profile_gives_it_a_rate(pipeline):
    rows_only, said = lora_of(pipeline.root / "warmup"), []
    assert rows_only and not any(value.any() for value in rows_only)
    more = {"warmup": {**LEARNING["warmup"], "lora": 1e-2}}
    folder = pipeline.run("warmup", "warmup_lora", more, on_log=said.append)
    assert all(value.any() for value in lora_of(folder))
    assert " lora" in said[0]
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["supervised_text"] > 0 and last["supervised_t2i"] == 0


def test_train_publishes_checkpoints_metrics_and_evidence(pipeline):
    folder = pipeline.root / "train"
    validate_file(folder / "checkpoints.json", "checkpoints")
    validate_file(folder / "metrics.jsonl", "metric_row")
    listed = json.loads((folder / "checkpoints.json").read_bytes())
    assert listed["saved"] == ["step_0", "step_8", f"step_{STEPS}"] and listed["stopped"] is None
    assert listed["best"] in listed["saved"] and set(listed["val_loss"]["step_8"]) == {
        "a2t",
        "i2t",
        "t2a",
        "t2i",
    }
    files = {name: sorted(p.name for p in (folder / "checkpoints" / name).iterdir()) for name in listed["saved"]}
    assert files["step_8"] == ["adapter_config.json", WEIGHTS]
    assert files[f"step_{STEPS}"] == ["adapter_config.json", WEIGHTS, "trainer_state.safetensors"]
    warm = (pipeline.root / "warmup" / "checkpoint" / WEIGHTS).read_bytes()
    assert (folder / "checkpoints" / "step_0" / WEIGHTS).read_bytes() == warm
    b1, b2 = metrics_of(folder, "B1"), metrics_of(folder, "B2")
    assert set(b1) == {
        ("loss_minus_unigram_nats", "t2a"),
        ("loss_minus_unigram_nats", "t2i"),
        ("loss_drop_share", "t2a"),
        ("loss_drop_share", "t2i"),
        ("loss_rise_share", "a2t"),
        ("loss_rise_share", "i2t"),
        *(("half_minus_unigram_nats", f"{task}.{half}") for task in ("t2a", "t2i") for half in ("first", "second")),
        *(("scoring_difference_nats", task) for task in ("a2t", "i2t", "t2a", "t2i")),
    }
    assert all(b1["scoring_difference_nats", task]["value"] < 1e-4 for task in ("a2t", "i2t", "t2a", "t2i"))
    assert all(row["value"] is not None and row["n"] >= 10 for row in b1.values())
    assert {name for name, _ in b2} == {
        "nonfinite_steps",
        "grad_norm_over_median",
        "row_norm_jump",
        "steps_missing",
        "clipped_share",
        "drawn_outside_train",
        "examples_never_drawn",
    }
    assert b2["steps_missing", ""]["value"] == 0 and b2["nonfinite_steps", ""]["n"] == STEPS


def drawn(folder):
    validate_file(folder / "draws.jsonl", "draw")
    return {row["id"]: row["draws"] for row in map(json.loads, (folder / "draws.jsonl").read_text().splitlines())}


def split_of(pipeline):
    rows = map(json.loads, (pipeline.root / "split" / "split.jsonl").read_text().splitlines())
    return {row["id"]: row["split"] for row in rows}


def test_warm_up_and_training_publish_what_they_drew(pipeline):
    sides = split_of(pipeline)
    warm, full = drawn(pipeline.root / "warmup"), drawn(pipeline.root / "train")
    assert {sides[name] for name in warm} == {sides[name] for name in full} == {"train"}
    assert {task for draws in warm.values() for task in draws} == {"a2t", "i2t"}
    state = read_meta(pipeline.root / "train" / "checkpoints" / f"step_{STEPS}" / "trainer_state.safetensors")
    for task in ("a2t", "i2t", "t2a", "t2i"):
        assert sum(draws.get(task, 0) for draws in full.values()) == state["loader"]["cursors"][task]
    b2 = metrics_of(pipeline.root / "train", "B2")
    assert b2["drawn_outside_train", ""]["value"] == 0 and b2["drawn_outside_train", ""]["n"] == len(full)
    unseen = b2["examples_never_drawn", "t2i"]
    assert unseen["value"] == unseen["n"] - sum("t2i" in draws for draws in full.values())


@pytest.mark.parametrize("side", ["val", "test"])
def test_training_on_held_out_records_is_seen(pipeline, monkeypatch, side):
    """Red team: `_sources(split="test")` was GO, and the best-looking run of all."""
    right = preparation.example_sets

    def mutated(ctx, space, weights, split="train"):
        return right(ctx, space, weights, side if split == "train" else split)

    monkeypatch.setattr(preparation, "example_sets", mutated)
    folder = pipeline.run("train", f"on_{side}")
    found = metrics_of(folder, "B2")["drawn_outside_train", ""]
    assert found["value"] == found["n"] == len(drawn(folder)) > 0
    assert {split_of(pipeline)[name] for name in drawn(folder)} == {side}


def test_a_stage_killed_in_the_middle_publishes_the_same_bytes(pipeline):
    def die(line):
        if line.startswith("step 12/"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert dies(lambda: pipeline.run("train", "again", on_log=die))
    lines = []
    assert tree(pipeline.run("train", "again", on_log=lines.append)) == tree(pipeline.root / "train")
    assert lines[0].startswith("trains 1,536 parameters: 256 lora")
    assert lines[1] == "resumed from the checkpoint of step 8" and lines[2].startswith("step 9/")


def test_a_diverging_run_stops_and_still_leaves_its_evidence(pipeline):
    wild = copy.deepcopy(LEARNING["train"])
    wild.update(lr={"lora": 1e30, "embed": 1e30, "head": 1e30})
    folder = pipeline.run("train", "wild", {"train": wild})
    listed = json.loads((folder / "checkpoints.json").read_bytes())
    assert listed["stopped"] and listed["final"] != f"step_{STEPS}"
    b2 = metrics_of(folder, "B2")
    assert b2["steps_missing", ""]["value"] > 0 and b2["nonfinite_steps", ""]["value"] == 1
    verdict = judged("B2", json.loads((folder / "evidence" / "B2.json").read_bytes()))
    assert verdict.verdict == "NO_GO" and failing(verdict) == {"nonfinite", "finished"}
    assert ("loss_drop_share", "t2a") in metrics_of(folder, "B1")


def test_the_best_checkpoint_is_judged_where_the_profile_says_so(pipeline):
    """A rate that rises to the end spoils the run: an earlier checkpoint is `final`, and B1 names it."""
    hot = copy.deepcopy(LEARNING["train"])
    hot.update(lr={"lora": 3.0, "embed": 5.0, "head": 5.0}, warmup_steps=STEPS, save_every=4, keep="best")
    folder = pipeline.run("train", "hot", {"train": hot})
    validate_file(folder / "checkpoints.json", "checkpoints")
    listed = json.loads((folder / "checkpoints.json").read_bytes())
    evidence = json.loads((folder / "evidence" / "B1.json").read_bytes())
    (ramp,) = (int(note.removeprefix("ramp's end: step ")) for note in evidence["notes"] if note.startswith("ramp"))
    behind = [name for name in listed["saved"] if int(name.removeprefix("step_")) > ramp]
    means = {name: sum(listed["val_loss"][name].values()) for name in behind}
    assert listed["final"] == min(means, key=means.get) != f"step_{STEPS}"
    assert evidence["subject"]["checkpoint"] == sha256_file(folder / "checkpoints" / listed["final"] / WEIGHTS)
    assert all(row["n"] for (name, _), row in metrics_of(folder, "B1").items() if name == "loss_drop_share")


def test_a_run_that_learns_nothing_fails(pipeline):
    still = copy.deepcopy(LEARNING["train"])
    still.update(lr={"lora": 1e-12, "embed": 1e-12, "head": 1e-12})
    folder = pipeline.run("train", "still", {"train": still})
    few = [
        {"gate": "B1", "check": check, "min_n": 8, "reason": "a small corpus"}
        for check in ("beats_unigram", "falls", "read_holds")
    ]
    verdict = judged("B1", json.loads((folder / "evidence" / "B1.json").read_bytes()), *few)
    assert verdict.verdict == "NO_GO"
    failed = {name for name in failing(verdict) if not name.startswith("halves")}
    assert failed == {f"{check} [{task}]" for check in ("beats_unigram", "falls") for task in ("t2a", "t2i")}
    assert {"halves [t2i.first]", "halves [t2i.second]"} <= failing(verdict)


def test_support_range_trains_on_the_same_batches(pipeline):
    changed = copy.deepcopy(LEARNING["train"])
    changed["loss"] = {"support": "range"}
    folder = pipeline.run("train", "ranged", {"train": changed})
    full, ranged = (
        [json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()]
        for f in (pipeline.root / "train", folder)
    )
    assert [row["supervised_t2i"] for row in full] == [row["supervised_t2i"] for row in ranged]
    assert all(a["loss_t2i"] > b["loss_t2i"] for a, b in zip(full, ranged, strict=True) if a["loss_t2i"])


def test_a_pretrained_base_is_copied_and_described(pipeline):
    source = {"kind": "pretrained", "path": str(pipeline.root / "base" / "model")}
    folder = pipeline.run("base", "copied", {"base": source})
    validate_file(folder / "base.json", "base")
    name = "model/model.safetensors"
    assert tree(folder)[name] == tree(pipeline.root / "base")[name]
    with pytest.raises(UserError, match="base.path"):
        pipeline.run("base", "missing", {"base": {"kind": "pretrained", "path": "/no/such/folder"}})


def test_examples_longer_than_the_bases_context_are_refused(tmp_path):
    model = small_model(tmp_path / "base")
    model.config.max_position_embeddings = 64
    check_positions(model.config.to_dict(), 64)
    with pytest.raises(UserError, match="found 65; expected at most 64"):
        check_positions(model.config.to_dict(), 65)
