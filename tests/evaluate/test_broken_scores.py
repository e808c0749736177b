"""Gates Q1, Q2 and T1 on golden outputs that are really wrong, through the measures, to the verdict."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from mmpt.corpus.generated import generate_pictures, generate_sounds
from mmpt.evaluate import scores
from mmpt.evaluate.checkpoint import EvalContext, Trained
from mmpt.evaluate.emission import FOLDER, reconstruction_path
from mmpt.evaluate.golden import medium_path
from mmpt.evaluate.media import write_png, write_wav
from mmpt.evaluate.quality import LOOP
from mmpt.shards.shard_set import ShardSet
from mmpt.store.canonical import read_json, write_json
from mmpt.store.jsonl import read_jsonl, write_jsonl
from mmpt.store.tasks import MODALITY_OF
from tests.gating.gate_evidence import completed, failing, judged, undecided, warning

ITEMS = 40
NOISE = np.random.default_rng(0)


@pytest.fixture(scope="module")
def shown(run, tmp_path_factory):
    """Golden outputs that show what was prompted: the corpus' own media."""
    qual = tmp_path_factory.mktemp("oracle") / "qual"
    sets = {"t2i": generate_pictures(0, ITEMS), "t2a": generate_sounds(0, ITEMS)}
    for step in (0, 9):
        for task, items in sets.items():
            rows = [row_of(task, step, one.record) for one in items]
            for below in FOLDER.values():
                folder = qual / f"step_{step}" / below
                for one, row in zip(items, rows, strict=True):
                    write(folder / row["path"], one.medium)
                    write(folder / reconstruction_path(task, row["id"]), one.medium)
                write_jsonl(folder / f"step_{step}_golden_{task}.jsonl", rows)
    golden = {task: [one.record for one in items] for task, items in sets.items()}
    return scores.Look(run.workshop().space, golden, qual, 0, 9)


def row_of(task, step, record):
    kept = {key: record[key] for key in ("id", "attributes", "mentioned")}
    return {"task": task, "path": medium_path(task, step, record["id"]), **kept}


def write(path, medium):
    if path.suffix == ".png":
        write_png(path, medium)
    else:
        write_wav(path, medium[None], 16000)


class TestOracle:
    """Q1."""

    def judge(self, look):
        metrics, _, _ = scores.oracle_metrics(look)
        return judged("Q1", completed("Q1", metrics, least_n=64) if metrics else metrics)

    @pytest.fixture
    def copied(self, shown, tmp_path):
        shutil.copytree(shown.qual, tmp_path / "qual")
        return replace(shown, qual=tmp_path / "qual")

    def final(self, look, task):
        path = look.qual / "step_9" / f"step_9_golden_{task}.jsonl"
        return path, read_jsonl(path)

    def test_files_that_show_the_prompt_pass(self, shown):
        assert self.judge(shown).verdict == "GO"

    @pytest.mark.parametrize("task", ["t2i", "t2a"])
    def test_files_of_other_prompts_fail(self, copied, task):
        path, rows = self.final(copied, task)
        paths = [row["path"] for row in rows]
        write_jsonl(path, [{**row, "path": other} for row, other in zip(rows, paths[1:] + paths[:1], strict=True)])
        verdict, modality = self.judge(copied), MODALITY_OF[task]
        assert verdict.verdict == "NO_GO" and f"mean [{modality}]" in failing(verdict)
        assert all(modality in name for name in failing(verdict))

    def test_one_attribute_that_is_never_shown_fails_alone(self, copied):
        path, rows = self.final(copied, "t2i")
        for row in rows:
            row["attributes"]["background"] = "none of them"
        write_jsonl(path, rows)
        assert "attributes [image.background]" in failing(self.judge(copied))

    def test_missing_files_count_as_wrong(self, copied):
        path, rows = self.final(copied, "t2a")
        write_jsonl(path, [{**row, "path": None} for row in rows])
        assert "mean [audio]" in failing(self.judge(copied))

    def test_references_that_the_oracle_cannot_read_decide_nothing(self, copied):
        for path in (copied.qual / "step_9" / "reconstruction" / "t2i_image").iterdir():
            write_png(path, NOISE.integers(0, 256, (48, 48, 3), dtype=np.uint8))
        verdict = self.judge(copied)
        assert verdict.verdict == "CANNOT_DECIDE"
        assert {"oracle [image]", "mean [image]", "attributes [image.shape]"} <= undecided(verdict)

    def test_sets_without_attributes_decide_nothing(self, shown):
        plain = {task: [{**one, "attributes": None} for one in records] for task, records in shown.golden.items()}
        assert self.judge(replace(shown, golden=plain)).verdict == "CANNOT_DECIDE"


class TestFreeRunning:
    """Q2 and T1 on the outputs of the run in miniature, made good and then spoilt."""

    @pytest.fixture
    def look(self, run, tmp_path):
        shutil.copytree(run.build("generate"), tmp_path / "generate")
        context = run.context("scores", tmp_path / "out" / "data", generate=tmp_path / "generate")
        look = scores.Look.of(context, EvalContext.of(context), Trained.of(run.data("train")))
        for task, records in look.golden.items():
            for decoding in FOLDER:
                targets = {one["id"]: one["target_ids"] for one in records}
                self.change(
                    look,
                    task,
                    decoding,
                    lambda row, t=targets: {**row, "ids": t[row["id"]], "text": row["caption"]},
                )
        good = {"legal_mass": 1.0, "unconstrained": {"n": 4, "valid": 4, "ended": 4}}
        self.summaries(look, lambda one: {**one, **good})
        self.context = context
        return look

    def change(self, look, task, decoding, change):
        path = look.folder(look.final, decoding) / f"step_{look.final}_golden_{task}.jsonl"
        write_jsonl(path, [change(row) for row in read_jsonl(path)])

    def summaries(self, look, change):
        path = look.qual / f"step_{look.final}" / "golden_summary.json"
        found = read_json(path)
        write_json(path, {**found, "summaries": [change(one) for one in found["summaries"]]})

    def q2(self, look):
        return judged("Q2", completed("Q2", scores.free_metrics(look)[0], least_n=64))

    def test_good_outputs_warn_of_nothing(self, look):
        verdict = self.q2(look)
        assert verdict.verdict == "GO" and not warning(verdict) and not undecided(verdict)

    def test_the_same_output_for_every_prompt_warns(self, look):
        one = look.golden["t2i"][0]["target_ids"]
        self.change(look, "t2i", "greedy", lambda row: {**row, "ids": one, "attributes": None})
        assert "duplicates [t2i.greedy]" in warning(self.q2(look))

    def test_a_sound_that_repeats_its_frame_warns(self, look):
        self.change(look, "t2a", "sampled", lambda row: {**row, "ids": row["ids"][:2] * LOOP})
        assert {"loops [t2a.sampled]"} <= warning(self.q2(look))

    def test_a_single_code_warns(self, look):
        first = look.space.image_range.start
        self.change(look, "t2i", "greedy", lambda row: {**row, "ids": [first] * len(row["ids"])})
        assert "usage [t2i.greedy]" in warning(self.q2(look))

    @pytest.mark.parametrize(
        ("check", "values"),
        [
            ("legal_mass", {"legal_mass": 0.5}),
            ("unconstrained", {"unconstrained": {"n": 4, "valid": 1, "ended": 4}}),
            ("ends", {"unconstrained": {"n": 4, "valid": 4, "ended": 1}}),
        ],
    )
    def test_what_the_grammar_hides_warns(self, look, check, values):
        self.summaries(look, lambda one: {**one, **values} if one["task"] == "i2t" else one)
        assert warning(self.q2(look)) == {f"{check} [i2t.greedy]", f"{check} [i2t.sampled]"}

    def test_extremes_block(self, look):
        assert self.q2(look).verdict == "GO"
        first = look.space.image_range.start
        self.change(look, "t2i", "greedy", lambda row: {**row, "ids": [first] * len(row["ids"]), "attributes": None})
        assert failing(self.q2(look)) == {"one_output [t2i.greedy]", "one_frame [t2i.greedy]"}

    @pytest.mark.parametrize(
        ("check", "values"),
        [
            ("outside", {"legal_mass": 0.01}),
            ("never_valid", {"unconstrained": {"n": 4, "valid": 0, "ended": 4}}),
            ("never_ends", {"unconstrained": {"n": 4, "valid": 4, "ended": 0}}),
        ],
    )
    def test_what_never_comes_out_alone_blocks(self, look, check, values):
        self.summaries(look, lambda one: {**one, **values} if one["task"] == "t2a" else one)
        assert failing(self.q2(look)) == {f"{check} [t2a.greedy]"}

    def test_a_decoding_that_was_left_out_is_told(self, look):
        path = look.qual / f"step_{look.final}" / "golden_summary.json"
        found = read_json(path)
        kept = [one for one in found["summaries"] if (one["task"], one["decoding"]) != ("t2a", "sampled")]
        write_json(path, {**found, "summaries": kept})
        assert "legal_mass [t2a.sampled]" in undecided(self.q2(look))

    def t1(self, run, look):
        return judged("T1", scores.memory_metrics(look, self.context, EvalContext.of(self.context))[0])

    def test_outputs_that_are_training_items_warn(self, run, look):
        assert not warning(self.t1(run, look)) & {"memorised [t2i]", "memorised [t2a]"}
        train = ShardSet.open(run.data("shards"), "image", "train").ids(0).tolist()
        self.change(look, "t2i", "greedy", lambda row: {**row, "ids": train})
        assert "memorised [t2i]" in warning(self.t1(run, look))

    def test_captions_that_say_something_else_warn(self, run, look):
        assert not warning(self.t1(run, look)) & {"caption_f1 [a2t]", "caption_f1 [i2t]"}
        self.change(look, "i2t", "greedy", lambda row: {**row, "text": "zzz"})
        assert "caption_f1 [i2t]" in warning(self.t1(run, look))

    def test_a_test_loss_far_above_the_train_loss_warns(self, run, look, monkeypatch):
        right = scores._mean_losses

        def memorised(model, space, examples):
            far = 3.0 if examples.shards.split == "test" else 0.0
            return right(model, space, examples) + far

        monkeypatch.setattr(scores, "_mean_losses", memorised)
        assert {f"train_test_gap [{task}]" for task in ("a2t", "i2t", "t2a", "t2i")} <= warning(self.t1(run, look))
