"""The exported folder: plain transformers and plain PEFT read it and give what our own model gives."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer

from mmpt.generate import generate
from mmpt.model import export
from mmpt.model.export import Lengths, export_model
from mmpt.shards.token_space import train_tokenizer
from mmpt.store.errors import UserError
from mmpt.store.tensors import load_tensors
from mmpt.tokens import build, build_token_space, grammar, prompt
from mmpt.tokens.exported_names import token_names
from tests.model.tiny_model import CODEBOOKS, CODES, IMAGE, SPECIAL, small_model, small_space

TEXT = 257  # a byte-level tokenizer's ids
LENGTHS = Lengths(text_tokens=(1, 7), audio_frames=(5, 5), image_tokens=6)
GIVEN = {"t2a": [5, 6, 7], "t2i": [9], "a2t": "audio", "i2t": "image"}


def space_of_bytes():
    return build_token_space(
        base_text_model="tiny",
        text_vocab_size=TEXT,
        n_special=SPECIAL,
        image_tokenizer={"name": "p", "codebook_size": IMAGE, "tokens_per_image": 6},
        audio_codec={"name": "m", "n_codebooks": CODEBOOKS, "codebook_size": CODES},
    )


class Exported:
    """A small model with its exported folder, and what our engine generates with it."""

    def __init__(self, root: Path, *, tied: bool, padded_to: int = TEXT, dtype=torch.float32, layer_norm=False):
        self.space = space_of_bytes()
        self.model = small_model(
            root / "base" / "model", tied=tied, padded_to=padded_to, space=self.space, layer_norm=layer_norm
        )
        self.model.save_adapter(root / "adapter")
        self.space.save(root / "space")
        train_tokenizer(["a red circle"], TEXT, root / "space" / "tokenizer")
        self.folder, self.base = root / "out", root / "base" / "model"
        rng = np.random.default_rng(3)
        self.source = {
            "audio": self.space.audio_to_global(rng.integers(0, CODES, (CODEBOOKS, 4))),
            "image": self.space.image_to_global(rng.integers(0, IMAGE, 6)),
        }
        self.probes = [
            build(self.space, "t2a", [1, 2, 3], self.source["audio"]).input_ids,
            build(self.space, "i2t", [1, 2, 3], self.source["image"]).input_ids,
        ]
        self.parity = export_model(
            self.folder,
            base=root / "base",
            token_space=root / "space",
            space=self.space,
            adapter=root / "adapter",
            codecs=root / "codecs",
            lengths=LENGTHS,
            probes=self.probes,
            dtype=dtype,
        )
        self.plain = AutoModelForCausalLM.from_pretrained(self.folder, dtype=dtype).eval()

    def prompt(self, task):
        given = GIVEN[task]
        return prompt(self.space, task, self.source[given] if isinstance(given, str) else given)

    def ours(self, task):
        wanted = {
            "t2a": lambda: grammar(self.space, task, frames=5),
            "t2i": lambda: grammar(self.space, task, tokens_per_image=6),
        }.get(task, lambda: grammar(self.space, task, text=(1, 7)))()
        with torch.no_grad(), self.model.eval().merged():
            return generate(self.model, [self.prompt(task)], [wanted])[0].ids.tolist()

    def processor(self):
        """The class in the folder's own file, as somebody without mmpt would import it."""
        spec = importlib.util.spec_from_file_location("grammar_logits", self.folder / "grammar_logits.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def exported(request, tmp_path_factory):
    return Exported(tmp_path_factory.mktemp("export"), tied=request.param, padded_to=TEXT + 9, layer_norm=True)


def test_plain_transformers_gives_our_logits(exported):
    model, plain = exported.model, exported.plain
    assert plain.get_input_embeddings().num_embeddings == exported.space.vocab_size_total == plain.config.vocab_size
    assert (plain.lm_head.weight is plain.get_input_embeddings().weight) == model.tied
    for ids in exported.probes:
        ids = torch.as_tensor(ids)[None].long()
        with torch.no_grad():
            torch.testing.assert_close(
                plain(input_ids=ids).logits, model.logits(model.hidden(ids)), rtol=1e-5, atol=1e-5
            )
    assert exported.parity.difference < 1e-5 and exported.parity.same_choice == 1.0
    assert exported.parity.positions == sum(map(len, exported.probes))


@pytest.mark.parametrize("task", list(GIVEN))
def test_plain_transformers_and_the_exported_processor_give_our_greedy_samples(exported, task):
    grammar_of = exported.processor().Grammar()
    ids = torch.tensor([grammar_of.prompt(task, exported.prompt(task)[1:-3].tolist())])
    assert ids[0].tolist() == exported.prompt(task).tolist()
    out = exported.plain.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        logits_processor=[grammar_of],
        max_new_tokens=grammar_of.most(task),
    )[0, ids.shape[1] :].tolist()
    assert out[-1] == grammar_of.end(task)
    assert out[:-1] == exported.ours(task) and out[:-1]


def test_rows_of_a_padded_batch_and_vllms_request_are_held_to_the_same_ids(exported):
    module = exported.processor()
    grammar_of, total = module.Grammar(), exported.space.vocab_size_total
    prompts = {task: exported.prompt(task).tolist() for task in GIVEN}
    width = max(map(len, prompts.values()))
    batch = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts.values()])
    scores = torch.randn(len(prompts), total)
    masked = grammar_of(batch, scores)
    for row, (task, ids) in enumerate(prompts.items()):
        alone = grammar_of.request(ids, [], scores[row])
        assert torch.equal(masked[row], alone)
        allowed = torch.isfinite(alone).nonzero()[:, 0]
        expected = {
            "t2a": exported.space.ranges["AUDIO_CB0"],
            "t2i": exported.space.ranges["IMAGE"],
        }.get(task, exported.space.ranges["TEXT"])
        assert (allowed[0], allowed[-1]) == (expected.start, expected.end)


def test_a_learned_end_is_offered_on_frame_boundaries_only(exported):
    grammar_of, space = exported.processor().Grammar(audio_frames=(1, 3)), exported.space
    ids = exported.prompt("t2a").tolist()
    end = space.special("aud_end")
    frame = [space.ranges["AUDIO_CB0"].start, space.ranges["AUDIO_CB1"].start]
    assert [grammar_of.allowed(ids + (frame * 3)[:n])[2] for n in range(6)] == [-1, -1, end, -1, end, -1]
    assert grammar_of.allowed(ids + frame * 3) == (end, end + 1, -1)
    assert grammar_of.allowed(ids + frame + [end]) is None  # the payload is over


def test_plain_text_is_left_alone(exported):
    grammar_of = exported.processor().Grammar()
    scores = torch.randn(1, exported.space.vocab_size_total)
    assert torch.equal(grammar_of(torch.tensor([[1, 2, 3]]), scores), scores)
    start = exported.space.special("text_start")  # a prompt of t2a, not a caption to write
    assert torch.equal(grammar_of(torch.tensor([[start, 2]]), scores), scores)


def test_the_processor_imports_nothing_of_ours(exported):
    assert "mmpt" not in {
        line.split()[1].split(".")[0]
        for line in (exported.folder / "grammar_logits.py").read_text().splitlines()
        if line.startswith(("import ", "from "))
    }
    with pytest.raises(ImportError if importlib.util.find_spec("vllm") is None else AssertionError):
        _ = exported.processor().GrammarForVLLM


def test_plain_peft_reloads_the_exported_adapter_bit_for_bit(exported):
    base = AutoModelForCausalLM.from_pretrained(exported.base)
    base.resize_token_embeddings(exported.space.vocab_size_total, mean_resizing=False)
    theirs = PeftModel.from_pretrained(base, exported.folder / "adapter")
    stored = get_peft_model_state_dict(theirs, save_embedding_layers=False)
    ours = exported.model.adapter_parameters()
    assert set(stored) == set(ours) and all(torch.equal(stored[key], ours[key]) for key in ours)
    ids = torch.as_tensor(exported.probes[0])[None].long()
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(input_ids=ids).logits, exported.plain(input_ids=ids).logits, rtol=1e-4, atol=1e-5
        )


def test_the_tokenizer_knows_our_ids_by_name(exported):
    tokenizer, space = AutoTokenizer.from_pretrained(exported.folder), exported.space
    text = "<|text_start|>a red circle<|text_end|><|gen_img|><|img_start|>"
    plain = tokenizer.encode("a red circle", add_special_tokens=False)
    meant = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=False)
    assert meant == prompt(space, "t2i", plain).tolist()
    assert max(tokenizer.encode(text, add_special_tokens=False)) < space.text_vocab_size  # a caption stays text
    assert tokenizer.convert_tokens_to_ids("<|image_3|>") == space.ranges["IMAGE"].start + 3
    assert tokenizer.convert_tokens_to_ids("<|audio_cb1_5|>") == space.ranges["AUDIO_CB1"].start + 5
    assert len(tokenizer) == space.vocab_size_total and len(set(token_names(space))) == space.n_new
    sound = exported.source["audio"].tolist()
    assert tokenizer.decode([*plain, *sound], skip_special_tokens=True) == "a red circle"


def test_bfloat16_weights_stay_near(tmp_path):
    made = Exported(tmp_path, tied=False, dtype=torch.bfloat16)
    assert 0 < made.parity.difference < 0.05 and made.plain.dtype == torch.bfloat16
    stored = load_tensors(made.folder / "model.safetensors", "torch")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}


def test_a_merge_that_loses_the_new_rows_is_caught(tmp_path, monkeypatch):
    whole = export.merge

    def forgetful(model):
        causal = whole(model)
        with torch.no_grad():
            causal.get_input_embeddings().weight[TEXT + 20 :] = 0
        return causal

    monkeypatch.setattr(export, "merge", forgetful)
    with pytest.raises(RuntimeError, match="other logits"):
        Exported(tmp_path, tied=True)


def test_a_tokenizer_with_a_gap_is_refused(tmp_path):
    train_tokenizer(["a red circle"], TEXT, tmp_path / "tokenizer")
    with pytest.raises(UserError, match="no room for our ids"):
        export.save_tokenizer(tmp_path / "tokenizer", tmp_path, small_space(n_codebooks=1))


def test_the_grammar_file_holds_what_is_there(exported):
    assert json.loads((exported.folder / "grammar.json").read_text()) == {
        "text_tokens": [1, 7],
        "audio_frames": [5, 5],
        "image_tokens": 6,
    }
