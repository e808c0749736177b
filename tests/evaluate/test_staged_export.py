"""Gate X1: the staged export gives the run's ids, and each way in which it would not is seen."""

import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.normalizers import Replace
from tokenizers.processors import TemplateProcessing

from mmpt.evaluate import exporting
from mmpt.evaluate.checkpoint import digest
from mmpt.evaluate.sets import golden_sets
from mmpt.model import runtimes
from mmpt.store.errors import UserError
from mmpt.store.evidence import read_evidence
from mmpt.store.tensors import load_tensors
from tests.gating.gate_evidence import completed, failing, judged

FEW = {"gate": "X1", "check": "ids"}


@pytest.fixture(scope="module")
def staged(run):
    for stage in ("generate", "staged_export"):
        run.build(stage)
    return run


def test_the_staged_folder_is_what_was_trained_and_gives_its_ids(staged):
    folder = staged.data("staged_export")
    evidence = read_evidence(folder / "evidence" / "X1.json")
    written = json.loads((folder / "export.json").read_bytes())
    final = staged.trained().path(staged.trained().final)
    assert evidence["subject"]["final"] == written["adapter_sha256"] == digest(final)
    found = {metric["name"]: metric for metric in evidence["metrics"]}
    assert found["ids_differing"]["value"] == 0 and found["ids_differing"]["slice"] == "transformers"
    assert found["ids_differing"]["n"] == 4 * 4 + 4  # golden items of four tasks, and sounds of free length
    assert found["texts_differing"]["value"] == 0 and found["texts_differing"]["n"] > 4 * 4
    assert written["lengths"]["audio_frames"] == [10, 10] and written["lengths"]["audio_frames_learned_end"] == [1, 20]


def damaged(staged, tmp_path, change):
    """ids_differing after `change` of a copy of the exported folder."""
    context = staged.context("staged_export", tmp_path / "staged_export")
    shutil.rmtree(context.out)
    shutil.copytree(staged.data("staged_export"), context.out)
    change(context.out / "export")
    workshop, trained = staged.workshop(), staged.trained()
    sets = golden_sets(staged.data("golden"))
    wanted = exporting.expected_outputs(context, workshop, trained, sets)
    metrics, told = exporting.compare(context, "transformers", torch.float32, workshop.space, wanted, 1e-4)
    return {metric.name: metric for metric in metrics}, told


def rows_rolled(folder):
    from safetensors.torch import save_file

    path = folder / "model.safetensors"
    tensors = load_tensors(path, "torch")
    name = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    tensors[name] = torch.cat([tensors[name][:320], tensors[name][320:].roll(1, 0)])
    save_file(tensors, path, metadata={"format": "pt"})


def grammar_short(folder):
    path = folder / "grammar.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "text_tokens": [1, 3]}))


def sampling(folder):
    """A generation setting that a base brings along: every call of generate uses it."""
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "repetition_penalty": 5.0}))


@pytest.mark.parametrize("change", [rows_rolled, grammar_short, sampling])
def test_an_export_that_gives_other_ids_fails(staged, tmp_path, change):
    found, told = damaged(staged, tmp_path, change)
    assert found["ids_differing"].value > 0 and told["first"][0]["run"] != told["first"][0]["runtime"]
    enough = [exporting.Metric(m.name, m.value, 320, slice=m.slice) for m in found.values()]
    assert failing(judged("X1", enough)) == {"ids [transformers]"}


def test_ids_that_differ_by_rounding_alone_are_counted_apart(staged, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "preference", lambda *_: 1e-6)
    found, _ = damaged(staged, tmp_path, grammar_short)
    assert found["ids_differing"].value == 0 and found["rounding_ties"].value > 0


def starting_with_a_token(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    start = [("<|endoftext|>", 0)]
    tokenizer.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=start)
    tokenizer.save(str(folder / "tokenizer.json"))


def letting_controls_through(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "split_special_tokens": False}))


def another_spelling(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = Replace("a", "e")
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("change", [starting_with_a_token, letting_controls_through, another_spelling])
def test_an_exported_tokenizer_that_gives_other_ids_fails(staged, tmp_path, change):
    for path in (staged.data("staged_export") / "export").glob("*.json"):
        shutil.copyfile(path, tmp_path / path.name)
    base, sets = staged.data("token_space") / "tokenizer", golden_sets(staged.data("golden"))
    (good,) = exporting.tokenizer_metrics(tmp_path, base, sets)
    change(tmp_path)
    (bad,) = exporting.tokenizer_metrics(tmp_path, base, sets)
    assert good.value == 0 < bad.value
    assert failing(judged("X1", completed("X1", [bad], 64))) == {"texts"}


def test_what_the_bases_own_tokenizer_adds_may_be_added(staged, tmp_path):
    base, export = tmp_path / "base", tmp_path / "export"
    shutil.copytree(staged.data("token_space") / "tokenizer", base)
    shutil.copytree(staged.data("staged_export") / "export", export)
    starting_with_a_token(base)
    starting_with_a_token(export)
    assert exporting.added_by(exporting.open_tokenizer(base)) == ([0], [])
    sets = golden_sets(staged.data("golden"))
    assert exporting.tokenizer_metrics(export, base, sets)[0].value == 0
    (base / "tokenizer_config.json").unlink()
    assert exporting.added_by(exporting.open_tokenizer(base)) == ([0], [])


def test_a_tokenizer_that_spells_a_text_otherwise_with_its_tokens_is_refused():
    class Prefixing:
        def encode(self, text, add_special_tokens=True):
            return [0, 7] if add_special_tokens else [5]

    with pytest.raises(UserError, match=r"found 'a' is \[5\], and \[0, 7\] with them"):
        exporting.added_by(Prefixing())


def test_padding_on_the_left_hides_nothing():
    ids, attended = runtimes._padded_left([[5, 6], [7, 8, 9]], pad=0)
    assert ids.tolist() == [[0, 5, 6], [7, 8, 9]] and attended.tolist() == [[0, 1, 1], [1, 1, 1]]
