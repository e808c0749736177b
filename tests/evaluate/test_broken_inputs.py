"""Gates A1 to A4 on artifacts that are really broken, through the measures, to the verdict: what NO_GO is made of.

Each test starts from what passes, so that what fails is what was broken.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmpt.evaluate import preflight, trainable
from mmpt.evaluate.packed import packed_metrics
from mmpt.evaluate.sets import Codecs
from mmpt.model.adapter import WEIGHTS
from mmpt.shards import example_set
from mmpt.stages.preflight import preflight as preflight_stage
from mmpt.store.canonical import read_json, write_json
from mmpt.store.evidence import Metric, read_evidence
from mmpt.store.jsonl import read_jsonl, write_jsonl
from mmpt.store.schema import validate_file
from mmpt.store.stage import SliceView
from mmpt.store.tasks import TASKS
from mmpt.store.tensors import load_tensors, read_meta, save_tensors
from mmpt.train import preparation
from mmpt.train.schedule import make_optimizer
from tests.evaluate.broken_copies import broken
from tests.gating.gate_evidence import failing, judged, undecided

READ, EMIT = ("a2t", "i2t"), ("t2a", "t2i")


def header(pattern, **fields):
    """A change of the headers of all files that match."""

    def change(folder):
        for path in sorted(folder.glob(pattern)):
            save_tensors(path, load_tensors(path), {**read_meta(path), **fields})

    return change


class TestTokenSpaces:
    """A1."""

    @pytest.fixture
    def judge(self, run, tmp_path):
        def judge(**replaced):
            context = run.context("preflight", tmp_path / "out" / "data", **replaced)
            preflight_stage(context)
            validate_file(context.out / "preflight.json", "preflight")
            return {
                gate: judged(gate, read_evidence(context.out / "evidence" / f"{gate}.json"))
                for gate in ("A1", "A2", "A3", "A4")
            }

        return judge

    def test_one_space_passes(self, judge):
        assert {verdict.verdict for verdict in judge().values()} == {"GO"}

    @pytest.mark.parametrize(
        ("stage", "pattern"),
        [
            ("shards", "image-val-*.safetensors"),
            ("examples", "t2a-*.safetensors"),
            ("warmup", f"*/{WEIGHTS}"),
        ],
    )
    def test_a_file_of_another_space_fails_and_nothing_rests_on_it(self, run, tmp_path, judge, stage, pattern):
        other = broken(run, tmp_path, stage, header(pattern, token_space="1" * 64))
        verdicts = judge(**{stage: other})
        assert verdicts["A1"].verdict == "NO_GO" and failing(verdicts["A1"]) == {"digests"}
        assert {verdicts[gate].verdict for gate in ("A2", "A3", "A4")} == {"CANNOT_DECIDE"}

    def test_a_base_of_another_space_fails(self, run, tmp_path, judge):
        path = "base.json"
        other = broken(
            run,
            tmp_path,
            "base",
            lambda f: write_json(f / path, {**read_json(f / path), "token_space": "2" * 64}),
        )
        assert failing(judge(base=other)["A1"]) == {"digests"}

    def test_a_record_of_another_space_fails(self, run, tmp_path, judge):
        def change(folder):
            path = sorted(folder.glob("audio-*.jsonl"))[0]
            records = read_jsonl(path)
            records[0]["token_space"] = "3" * 64
            write_jsonl(path, records)

        assert failing(judge(shards=broken(run, tmp_path, "shards", change))["A1"]) == {"digests"}

    def test_a_record_without_a_space_cannot_be_decided(self, run, tmp_path, judge):
        def change(folder):
            path = sorted(folder.glob("image-*.jsonl"))[0]
            records = read_jsonl(path)
            del records[0]["token_space"]
            write_jsonl(path, records)

        verdict = judge(shards=broken(run, tmp_path, "shards", change))["A1"]
        assert verdict.verdict == "CANNOT_DECIDE" and undecided(verdict) == {"unmarked"}

    def test_a_sha_that_its_own_rule_does_not_give_fails(self, run, tmp_path, judge):
        other = broken(run, tmp_path, "token_space", lambda f: (f / "token_space.sha256").write_text("4" * 64 + "\n"))
        assert failing(judge(token_space=other)["A1"]) == {"upstream_sha"}

    def test_no_checkpoint_at_all_is_no_pass(self, run, tmp_path):
        (tmp_path / "empty").mkdir()
        folders = [run.data(name) for name in ("token_space", "shards", "examples")]
        metrics, _ = preflight.token_spaces(*folders, tmp_path / "empty", run.data("base"))
        assert judged("A1", metrics).verdict == "CANNOT_DECIDE"


class TestTrainable:
    """A2."""

    @pytest.fixture
    def model(self, run):
        return run.workshop().untrained(dict(run.profile.data["lora"]))

    def judge(self, model, optimizer=None, lr=1e-3):
        rates = lr if isinstance(lr, dict) else dict.fromkeys(("lora", "embed", "head"), lr)
        optimizer = optimizer or make_optimizer(model, rates, (0.9, 0.95), 0.0)
        found = {**trainable.held(model, optimizer), **trainable.moved(model, optimizer)}
        metrics = [Metric(name, value, n) for name, (value, n) in found.items()]
        metrics += [Metric("parameters", n, n, slice=name) for name, n in trainable.parameter_counts(model).items()]
        return judged("A2", metrics)

    def test_the_model_as_built_passes(self, model):
        assert self.judge(model).verdict == "GO"

    def test_rows_that_are_not_held_fail(self, model):
        model.embedding.rows.requires_grad_(False)
        verdict = self.judge(model)
        assert verdict.verdict == "NO_GO" and failing(verdict) == {"rows_in_optimizer", "rows_changed"}

    def test_lora_that_is_not_held_fails(self, model):
        model.train_rows_only()
        assert failing(self.judge(model)) == {"lora_present", "lora_changed"}

    def test_a_frozen_tensor_that_moves_fails(self, model):
        optimizer = make_optimizer(model, dict.fromkeys(("lora", "embed", "head"), 1e-3), (0.9, 0.95), 0.0)
        weight = model.embedding.weight.requires_grad_(True)
        optimizer.add_param_group({"params": [weight], "lr": 1e-3})
        assert failing(self.judge(model, optimizer)) == {"frozen_same"}

    def test_a_dead_row_is_found_though_weight_decay_would_move_it(self, run):
        context = run.context("preflight")
        data = copy.deepcopy(dict(run.profile.data))
        data["train"]["weight_decay"] = 0.1
        context = replace(context, profile=SliceView(data, tuple(data), "preflight"))

        prepared = preparation.prepare_train(context)
        model = prepared.model
        dead = torch.tensor([int(trainable.used_rows(model.space)[3]) - model.space.new_start])
        model.embedding.rows.register_hook(lambda grad: grad.index_fill(0, dead, 0.0))
        metrics, _ = trainable.check_trainable(prepared)
        assert failing(judged("A2", metrics)) == {"rows_changed"}

    def test_a_training_that_leaves_lora_out_is_seen_before_it_begins(self, run, monkeypatch):
        """Red team: stage 4 trained the rows alone, and the model that A2 built for itself was sound."""
        right = preparation._model

        def rows_only(*arguments):
            model = right(*arguments)
            model.train_rows_only()
            return model

        monkeypatch.setattr(preparation, "_model", rows_only)
        metrics, _ = trainable.check_trainable(preparation.prepare_train(run.context("preflight")))
        assert failing(judged("A2", metrics)) == {"lora_present", "lora_changed"}


class TestSequences:
    """A3."""

    def judge(self, run, **replaced):
        folders = {name: replaced.get(name, run.data(name)) for name in ("shards", "examples", "token_space")}
        metrics, _ = preflight.sequence_checks(run.workshop().space, *folders.values(), lambda done, total: None)
        return judged("A3", [*metrics, *self.packed(run)])

    def packed(self, run):
        """The part of A3 that these folders do not decide, measured once on the run as it is."""
        if not hasattr(run, "packed_for_a3"):
            run.packed_for_a3 = packed_metrics(preparation.prepare_train(run.context("preflight")))
        return run.packed_for_a3

    def test_what_the_stage_builds_passes(self, run):
        assert self.judge(run).verdict == "GO"

    @pytest.mark.parametrize(
        ("check", "change"),
        [
            ("order", lambda one: one.input_ids.__setitem__([0, -1], one.input_ids[[-1, 0]])),
            ("mask", lambda one: one.labels.__setitem__(1, one.input_ids[1])),
            ("no_label", lambda one: one.labels.fill(-100)),
            ("segments", lambda one: one.labels.__setitem__(-2, one.input_ids[0])),
        ],
    )
    def test_a_sequence_that_is_built_wrong_fails(self, run, monkeypatch, check, change):
        right = example_set.build

        def wrong(*args):
            made = right(*args)
            made = replace(made, input_ids=made.input_ids.copy(), labels=made.labels.copy())
            change(made)
            return made

        monkeypatch.setattr(example_set, "build", wrong)
        assert {f"{check} [{task}]" for task in TASKS} <= failing(self.judge(run))

    def test_a_shortened_target_fails(self, run, monkeypatch):
        right = example_set.build
        monkeypatch.setattr(
            example_set,
            "build",
            lambda space, task, text, payload: right(
                space,
                task,
                text[:-1] if task in READ else text,
                payload if task in READ else payload[: -space.n_codebooks],
            ),
        )
        assert failing(self.judge(run)) == {f"shortened [{task}]" for task in TASKS}

    def test_an_id_out_of_its_segment_in_a_shard_fails(self, run, tmp_path):
        def change(folder):
            path = sorted(folder.glob("audio-train-*.safetensors"))[0]
            tensors = {name: np.array(one) for name, one in load_tensors(path).items()}
            tensors["ids"][3] = run.workshop().space.audio_ranges[0].start  # position 3 belongs to codebook 1
            save_tensors(path, tensors, read_meta(path))

        assert "segments [t2a]" in failing(self.judge(run, shards=broken(run, tmp_path, "shards", change)))

    def test_a_task_that_loses_a_tenth_of_its_records_fails_whatever_drops_json_says(self, run, tmp_path):
        def change(folder):
            path = folder / "t2i-train.safetensors"
            tensors = {name: np.array(one) for name, one in load_tensors(path).items()}
            kept = len(tensors["records"]) * 2 // 3
            for name, length in (("records", kept), ("lengths", kept), ("text_offsets", kept + 1)):
                tensors[name] = tensors[name][:length]
            save_tensors(path, tensors, read_meta(path))

        assert failing(self.judge(run, examples=broken(run, tmp_path, "examples", change))) == {"kept [t2i]"}


class TestStoredCodes:
    """A4."""

    def judge(self, run, tmp_path, audio=None, image=None, shards=None):
        codecs = Codecs.open(run.data("codecs"))
        codecs = Codecs(audio or codecs.audio, image or codecs.image)
        space = run.workshop().space
        metrics, _ = preflight.decode_stored(space, shards or run.data("shards"), codecs, tmp_path / "out", 0)
        return judged("A4", metrics)

    def test_stored_codes_pass(self, run, tmp_path):
        assert self.judge(run, tmp_path).verdict == "GO"

    def test_a_codec_that_refuses_or_gives_another_size_fails(self, run, tmp_path):
        class Refusing:
            def decode(self, codes, seeds=None):
                raise RuntimeError("no weights")

        class Large:
            def decode(self, codes, seeds=None):
                return [np.zeros((99, 99, 3), np.uint8) for _ in codes]

        assert failing(self.judge(run, tmp_path, audio=Refusing(), image=Large())) == {
            "decode [audio]",
            "form [image]",
        }

    @pytest.mark.parametrize("field", ["sample_rate", "channels"])
    def test_a_sound_that_is_not_what_its_meta_says_fails(self, run, tmp_path, field):
        def change(folder):
            for path in folder.glob("audio-*.jsonl"):
                write_jsonl(path, [{**row, field: row[field] + 1} for row in read_jsonl(path)])

        shards = broken(run, tmp_path, "shards", change)
        assert failing(self.judge(run, tmp_path, shards=shards)) == {"form [audio]"}

    def test_a_codec_that_loses_samples_fails(self, run, tmp_path):
        whole = Codecs.open(run.data("codecs")).audio

        class Torn:
            sample_rate, channels = whole.sample_rate, whole.channels

            def decode(self, codes):
                return [wave[:, :-7] for wave in whole.decode(codes)]

        assert failing(self.judge(run, tmp_path, audio=Torn())) == {"form [audio]"}
