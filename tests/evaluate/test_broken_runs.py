"""Gates after training on really broken artifacts, from the measures to the verdict: W1, B3, B4, C1 to C4, R1.

Each test starts from what passes, so that what fails is what was broken. Q1, Q2 and T1: test_broken_scores.py.
"""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from mmpt.evaluate import ablation as abl
from mmpt.evaluate import emission, resume, trend
from mmpt.evaluate import text as txt
from mmpt.evaluate.golden import output_rows, summary
from mmpt.evaluate.media import write_png, write_wav
from mmpt.evaluate.sets import Codecs, golden_sets, record_grammar
from mmpt.generate import Generated
from mmpt.model.adapter import WEIGHTS
from mmpt.model.multimodal import MultimodalLM
from mmpt.stages.text_regression import text_regression
from mmpt.store.errors import UserError
from mmpt.store.evidence import Metric, read_evidence
from mmpt.store.jsonl import read_jsonl
from mmpt.store.tensors import load_tensors, read_meta, save_tensors
from tests.evaluate.broken_copies import broken
from tests.gating.gate_evidence import completed, failing, judged, undecided, warning

READ, EMIT = ("a2t", "i2t"), ("t2a", "t2i")


def made(task, gap, n=300, groups=100):
    rng = np.random.default_rng(0)
    correct = rng.normal(5, 1, n)
    names, members = tuple(f"r{i}" for i in range(n)), tuple(f"g{i % groups}" for i in range(n))
    return abl.Ablation(
        task, names, members, correct, correct + rng.normal(gap, 0.2, n), correct + 1.0 if task in EMIT else None
    )


def measured(one):
    groups = abl.gap_interval(one, one.swapped, 300, 0).groups_metric(one.task)
    return [*abl.gap_metrics(one, 300, 0), groups]


class TestAblations:
    """W1, B3, C2, R1 on losses of models that use, and that ignore, what they are given."""

    def w1(self, **gaps):
        found = [metric for task, gap in gaps.items() for metric in measured(made(task, gap))]
        return judged("W1", completed("W1", found))

    def test_w1(self):
        assert self.w1(a2t=0.5, i2t=0.5).verdict == "GO"
        verdict = self.w1(a2t=0.5, i2t=0.0)
        assert verdict.verdict == "NO_GO" and failing(verdict) == {"gap [i2t]", "win_rate [i2t]"}

    def b3(self, records=None, **ablations):
        swaps = [
            Metric(name, value, 300, slice=task)
            for task in EMIT
            for name, value in (("invalid_swaps", 0), ("swap_length_difference", 0.0))
        ]
        found = swaps + [metric for one in ablations.values() for metric in measured(one)]
        return judged("B3", completed("B3", found))

    def test_b3(self):
        good = made("t2a", 0.5)
        assert self.b3(a=good, i=made("t2i", 0.5)).verdict == "GO"
        blind = self.b3(a=good, i=made("t2i", 0.0))
        assert failing(blind) == {"win_swapped [t2i]", "gap_swapped [t2i]", "mean_swapped_t2i [t2i]"}
        weak = self.b3(a=good, i=made("t2i", 0.08))
        assert failing(weak) == {"win_swapped [t2i]", "mean_swapped_t2i [t2i]"}
        better_without = replace(good, empty=good.correct - 0.1)
        found = failing(self.b3(a=better_without, i=made("t2i", 0.5)))
        assert found == {"win_empty [t2a]", "gap_empty [t2a]", "mean_empty_t2a [t2a]"}

    def test_an_interval_of_a_few_groups_decides_nothing(self):
        few = made("t2a", 0.5, groups=3)
        verdict = self.b3(a=few, i=made("t2i", 0.5))
        assert verdict.verdict == "CANNOT_DECIDE"
        assert undecided(verdict) == {"groups [t2a]", "gap_swapped [t2a]", "gap_empty [t2a]"}

    def test_c2(self):
        def at(task, swapped, empty):
            one = made(task, swapped)
            return replace(one, empty=one.correct + empty)

        def grown(first, last):
            metrics = []
            for task in EMIT:
                swapped, empty = (
                    abl.growth(at(task, *last), at(task, *first), 300, 0, against) for against in ("swapped", "empty")
                )
                metrics += [swapped.metric("gap_growth_nats", slice=task), swapped.groups_metric(task)]
                metrics.append(empty.metric("empty_gap_growth_nats", slice=task))
            return judged("C2", metrics)

        def every(*checks):
            return {f"{check} [{task}]" for check in checks for task in EMIT}

        assert grown((0.0, -0.2), (0.4, 0.3)).verdict == "GO"
        assert failing(grown((0.4, 0.3), (0.4, 0.4))) == every("growth")
        assert failing(grown((0.4, 0.3), (0.1, 0.1))) == every("growth")
        assert warning(grown((0.0, 0.3), (0.4, 0.3))) == every("growth_empty")

    def test_r1(self):
        def kept(before, after):
            metrics = []
            for task in READ:
                interval = abl.gap_interval(made(task, before), made(task, before).swapped, 300, 0)
                metrics += [
                    *measured(made(task, after)),
                    interval.metric("gap_after_warmup_nats", slice=task),
                ]
            return judged("R1", completed("R1", metrics))

        def both(*checks):
            return {f"{check} [{task}]" for check in checks for task in READ}

        assert kept(0.5, 0.4).verdict == "GO"
        assert failing(kept(0.5, 0.22)) == both("kept")
        assert failing(kept(0.01, 0.05)) == both("win", "mean")
        assert failing(kept(0.01, -0.1)) == both("gap", "win", "mean", "kept")


@pytest.fixture(scope="module")
def generated(run):
    return run.build("generate")


def places(path):
    """0, 1, .. to the last sample of a wav, float64."""
    return np.arange(float(soundfile.info(path).frames))


class TestFiles:
    """B4, on golden files that are the reconstructions, so that they are good."""

    @pytest.fixture
    def outputs(self, run, generated, tmp_path):
        folder = tmp_path / "step_4"
        shutil.copytree(generated / "qual" / "step_4", folder)
        rows = {(task, "greedy"): read_jsonl(folder / f"step_4_golden_{task}.jsonl") for task in EMIT}
        for (task, _), made_rows in rows.items():
            for row in made_rows:
                shutil.copyfile(folder / emission.reconstruction_path(task, row["id"]), folder / row["path"])
        return folder, rows

    def judge(self, run, outputs):
        folder, rows = outputs
        decoder = trend.TrendEvaluator.of(run.context("trend")).decoder
        reconstructions = {row["id"]: {"rms": 0.1, "clipped": 0.0} for made_rows in rows.values() for row in made_rows}
        found = emission.artifact_metrics(decoder, [emission.Written(4, folder, rows)], reconstructions)
        return judged("B4", completed("B4", found))

    def test_references_pass(self, run, outputs):
        assert self.judge(run, outputs).verdict == "GO"

    @pytest.mark.parametrize(
        ("task", "check", "spoil"),
        [
            ("t2a", "missing", lambda path: path.unlink()),
            ("t2i", "missing", lambda path: path.unlink()),
            ("t2a", "unreadable", lambda path: path.write_bytes(b"RIFFnothing")),
            ("t2i", "unreadable", lambda path: path.write_bytes(path.read_bytes()[:-20])),
            ("t2a", "form", lambda path: write_wav(path, np.sin(np.arange(16000.0) / 9)[None], 8000)),
            ("t2i", "form", lambda path: write_png(path, np.arange(48, dtype=np.uint8).reshape(4, 4, 3))),
            ("t2a", "silent", lambda path: write_wav(path, 1e-4 * np.sin(places(path))[None], 16000)),
            ("t2a", "constant", lambda path: write_wav(path, 0 * places(path)[None] + 0.2, 16000)),
            ("t2i", "constant", lambda path: write_png(path, np.full((16, 16, 3), 9, np.uint8))),
            (
                "t2a",
                "clipped",
                lambda path: write_wav(path, 40 * np.sin(places(path) / 9)[None], 16000),
            ),
        ],
    )
    def test_one_spoilt_file_fails_its_own_check_alone(self, run, outputs, task, check, spoil):
        folder, rows = outputs
        spoil(folder / rows[task, "greedy"][1]["path"])
        verdict = self.judge(run, outputs)
        assert verdict.verdict == "NO_GO" and failing(verdict) == {f"{check} [{task}]"}

    def test_content_is_counted_over_the_outputs_that_it_is_asked_of(self, run, generated):
        n = {(m["name"], m["slice"]): m["n"] for m in read_evidence(generated / "evidence" / "B4.json")["metrics"]}
        assert n["silent_files", "t2a"] == n["constant_files", "t2i"] == 4 and n["missing_files", "t2a"] == 16


class TestDecoding:
    """C1."""

    def judge(self, run, change=lambda ids: ids, expected=1):
        sets = {task: records for task, records in golden_sets(run.data("golden")).items() if task in EMIT}
        watch = trend.TrendEvaluator.of(run.context("trend"))
        summaries = []
        for records in sets.values():
            outputs = [Generated(np.asarray(one["target_ids"], np.int32), True, 1.0) for one in records]
            outputs[0] = replace(outputs[0], ids=change(outputs[0].ids))
            summaries.append(
                summary(output_rows(watch.decoder, records, outputs, watch.setting, 0, "greedy", None), None)
            )
        found = emission.decode_metrics(sets, summaries, expected)
        return judged("C1", completed("C1", found, least_n=64))

    def test_golden_targets_pass(self, run):
        assert self.judge(run).verdict == "GO"

    def test_an_id_of_another_segment_fails(self, run):
        special = run.workshop().space.special("pad_mm")
        verdict = self.judge(run, lambda ids: np.append(ids[:-1], special))
        assert failing(verdict) == {f"{check} [{task}]" for check in ("decode", "range") for task in EMIT}

    def test_a_payload_that_is_short_fails(self, run):
        verdict = self.judge(run, lambda ids: ids[: -run.workshop().space.n_codebooks])
        assert failing(verdict) == {f"{check} [{task}]" for check in ("decode", "length") for task in EMIT}

    def test_a_codec_that_cannot_decode_fails(self, run, monkeypatch):
        codec = type(Codecs.open(run.data("codecs")).image)
        monkeypatch.setattr(codec, "decode", lambda *_: _refuse())
        assert failing(self.judge(run)) == {"decode [t2i]"}

    def test_items_that_were_not_generated_leave_it_open(self, run):
        verdict = self.judge(run, expected=2)
        assert verdict.verdict == "CANNOT_DECIDE" and undecided(verdict) == {
            "complete [t2a]",
            "complete [t2i]",
        }

    def test_the_grammar_of_a_record_is_exact(self, run):
        for task in EMIT:
            record = golden_sets(run.data("golden"))[task][0]
            assert record_grammar(run.workshop().space, record, 9).max_len == len(record["target_ids"])


def _refuse():
    raise UserError("no weights")


class TestText:
    """C3. The base of the miniature run knows nothing, so the unigram is made worse than it."""

    OPEN = (
        {"gate": "C3", "check": "nll", "min_n": 100, "reason": "a run in miniature"},
        {"gate": "C3", "check": "base", "min_n": 100, "reason": "a run in miniature"},
    )

    @pytest.fixture
    def judge(self, run, tmp_path, monkeypatch):
        right = txt.unigram_losses
        monkeypatch.setattr(txt, "unigram_losses", lambda *args: right(*args) + 9.0)

        def judge(**replaced):
            context = run.context("text_regression", tmp_path / "out" / "data", **replaced)
            text_regression(context)
            return judged("C3", read_evidence(context.out / "evidence" / "C3.json"), *self.OPEN)

        return judge

    def louder(self, by):
        """New rows so large that they take probability from text."""

        def change(folder):
            path = folder / "checkpoints" / "step_4" / WEIGHTS
            tensors = {name: np.array(one) for name, one in load_tensors(path).items()}
            for name, one in tensors.items():
                if name.endswith("trainable_tokens_delta"):
                    tensors[name] = one * by
            save_tensors(path, tensors, read_meta(path))

        return change

    def test_a_model_that_forgot_text_fails(self, run, tmp_path, judge):
        verdict = judge(train=broken(run, tmp_path, "train", self.louder(40.0)))
        assert verdict.verdict == "NO_GO" and failing(verdict) == {"nll"}

    def test_a_base_that_knows_nothing_cannot_forget(self, run, judge, monkeypatch):
        monkeypatch.setattr(txt, "unigram_losses", lambda ids, pieces, vocab: np.zeros(pieces[:, 1:].shape))
        verdict = judge()
        assert verdict.verdict == "CANNOT_DECIDE" and undecided(verdict) == {"base", "nll"}

    def test_held_out_text_with_captions_or_trained_lines_decides_nothing(self, run, tmp_path, judge):
        def change(folder):
            caption = read_jsonl(run.data("manifest") / "manifest.jsonl")[0]["caption"]
            trained = (folder / "text_train.txt").read_text().splitlines()[:3]
            with open(folder / "text_heldout.txt", "a") as stream:
                stream.write("\n".join([f" {caption.upper()}  ", *trained, ""]))

        verdict = judge(token_space=broken(run, tmp_path, "token_space", change))
        assert verdict.verdict == "CANNOT_DECIDE" and undecided(verdict) == {
            "not_captions",
            "not_trained",
            "nll",
        }

    def test_rows_that_the_softmax_leaves_out_are_counted(self, judge, monkeypatch):
        right = MultimodalLM.head

        def longer(model):
            base, new = right(model)
            return base, torch.cat([new, new[:7]])

        monkeypatch.setattr(MultimodalLM, "head", longer)
        verdict = judge()
        assert verdict.verdict == "CANNOT_DECIDE" and undecided(verdict) == {"full_softmax", "nll"}


class TestResume:
    """C4; tests of its measure in full are in test_resume.py."""

    def test_every_difference_fails_its_own_check(self):
        names = {
            "parameters_differing": "parameters",
            "optimizer_tensors_differing": "optimizer",
            "rng_states_differing": "rng",
            "batches_differing": "batches",
            "losses_differing": "losses",
            "schedule_differing": "schedule",
            "sampler_differing": "sampler",
            "monitors_differing": "monitors",
            "intervals_differing": "intervals",
            "state_missing": "whole",
        }
        kinds = ("token_space", "row_shape", "lora_config")

        def judge(differing=None, loaded=None):
            metrics = [Metric(name, int(name == differing), 3) for name in names]
            metrics += [Metric("mismatches_not_refused", int(kind == loaded), 2, slice=kind) for kind in kinds]
            return judged("C4", metrics)

        assert judge().verdict == "GO"
        for name, check in names.items():
            assert failing(judge(differing=name)) == {check}
        for kind in kinds:
            assert failing(judge(loaded=kind)) == {f"refusals [{kind}]"}

    def test_a_resume_that_forgets_its_moments_fails(self, run, tmp_path, monkeypatch):
        """The real measure, with a trainer that goes on without the optimizer state it saved."""
        context = run.context("resume_check", tmp_path / "out" / "data")
        before, after = (context.profile[f"evaluate.resume.{name}"] for name in ("before", "after"))
        short = resume._short_context(context, before + after)
        resume.run_until(short, tmp_path / "once", before + after, before)
        resume.run_until(short, tmp_path / "twice", before, before)
        right = resume.train

        def forgetful(model, loader, settings, folder, hooks, *, until):
            path = folder / "steps" / f"step_{before}" / resume.STATE
            tensors = {name: np.array(one) for name, one in load_tensors(path).items()}
            tensors = {name: one * 0 if name.startswith("optimizer.exp_avg") else one for name, one in tensors.items()}
            save_tensors(path, tensors, read_meta(path))
            return right(model, loader, settings, folder, hooks, until=until)

        monkeypatch.setattr(resume, "train", forgetful)
        resume.run_until(short, tmp_path / "twice", before + after, before)
        found = resume.compare(tmp_path / "once", tmp_path / "twice", before + after)
        verdict = judged("C4", [Metric(name, len(names), n) for name, (names, n) in found.items()])
        assert verdict.verdict == "NO_GO" and {"parameters", "optimizer"} <= failing(verdict)
