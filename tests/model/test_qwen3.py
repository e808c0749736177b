"""Qwen3 as the reference base: published shapes, the padded matrix, and the reference token space around it.

MMPT_QWEN3_TOKENIZER=<folder with Qwen3's tokenizer.json> runs the last tests with the real tokenizer;
without it a stand-in of the same size has to do.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM

from mmpt.model import qwen3
from mmpt.model.export import Lengths, export_model
from mmpt.model.multimodal import MultimodalLM
from mmpt.stages.base import base
from mmpt.stages.token_space import token_space
from mmpt.store.digests import sha256_file
from mmpt.store.jsonl import write_jsonl
from mmpt.store.stage import SliceView, StageContext
from mmpt.tokens import build, load
from tests.model.tiny_model import LORA

REAL = os.environ.get("MMPT_QWEN3_TOKENIZER")
ENCODEC = {
    "kind": "audio",
    "name": "encodec",
    "identity": "e" * 64,
    "n_codebooks": 4,
    "codebook_size": 1024,
    "sample_rate": 24_000,
    "channels": 1,
    "frame_rate": 75.0,
}
SEED = {
    "kind": "image",
    "name": "seed2",
    "identity": "5" * 64,
    "codebook_size": 8192,
    "tokens_per_image": 32,
    "grid": [1, 32],
    "proc_size": 224,
    "decode_size": 768,
}


@pytest.mark.parametrize("size", qwen3.SIZES)
def test_a_published_shape_has_the_published_number_of_parameters(tmp_path, size):
    (tmp_path / "config.json").write_text(json.dumps(qwen3.shape(size)))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    assert sum(p.numel() for p in model.parameters()) == qwen3.parameters(size)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == (size != "8B")


@pytest.mark.parametrize(
    "path, size",
    [
        ("Qwen/Qwen3-8B-Base", "8B"),
        ("/weights/Qwen3-0.6B/", "0.6B"),
        ("Qwen/Qwen3-30B-A3B", None),
        ("Qwen/Qwen2.5-7B", None),
    ],
)
def test_a_size_is_read_from_the_name(path, size):
    assert qwen3.named(path) == size


class Run:
    """Stages token_space and base over a Qwen3 with the real vocabulary, narrow and shallow."""

    def __init__(self, root: Path, tied: bool):
        self.root = root
        self.source = root / "Qwen3-tiny"
        config = {**qwen3.shape("0.6B"), "hidden_size": 16, "num_hidden_layers": 2, "head_dim": 8}
        config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}
        self.source.mkdir()
        (self.source / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": tied}))
        torch.manual_seed(1)
        made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(self.source))
        made.save_pretrained(self.source)
        (self.source / "tokenizer.json").write_bytes(tokenizer_bytes())
        for name, about in (("audio", ENCODEC), ("image", SEED)):
            (root / "codecs" / name).mkdir(parents=True)
            (root / "codecs" / name / "codec.json").write_text(json.dumps(about))
        for stage, name in (("manifest", "manifest.jsonl"), ("split", "split.jsonl")):
            (root / stage).mkdir()
            write_jsonl(root / stage / name, [])
        for body in (token_space, base):
            body(self.context(body.__name__))

    def context(self, name: str) -> StageContext:
        profile = {
            "base": {"kind": "pretrained", "path": str(self.source)},
            "token_space": {"n_special": 64},
            "text": {"train_sentences": 5, "heldout_sentences": 5},
        }
        out = self.root / name
        out.mkdir()
        inputs = {one: self.root / one for one in ("manifest", "split", "codecs", "token_space")}
        return StageContext(name, SliceView(profile, tuple(profile), name), inputs, out, self.root / "work")

    def model(self) -> MultimodalLM:
        return MultimodalLM.from_base(self.root / "base" / "model", load(self.root / "token_space"), LORA, seed=1)


def tokenizer_bytes() -> bytes:
    """Qwen3's own tokenizer.json, or 151,669 words."""
    if REAL:
        return Path(REAL, "tokenizer.json").read_bytes()
    words = {f"w{i}": i for i in range(qwen3.TOKENIZER_IDS)}
    return Tokenizer(models.WordLevel(words, unk_token="w0")).to_str().encode()


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def run(request, tmp_path_factory) -> Run:
    return Run(tmp_path_factory.mktemp("qwen3"), request.param)


def test_the_token_space_has_exactly_the_reference_ranges(run):
    space = load(run.root / "token_space")
    assert {name: (r.start, r.end) for name, r in space.ranges.items()} == {
        "TEXT": (0, 151_668),
        "SPECIAL": (151_669, 151_732),
        "IMAGE": (151_733, 159_924),
        "AUDIO_CB0": (159_925, 160_948),
        "AUDIO_CB1": (160_949, 161_972),
        "AUDIO_CB2": (161_973, 162_996),
        "AUDIO_CB3": (162_997, 164_020),
    }
    assert space.vocab_size_total == 164_021
    about = json.loads((run.root / "base" / "base.json").read_text())
    assert (about["vocabulary_rows"], about["text_vocab_size"]) == (151_936, 151_669)


def test_ids_in_the_padding_of_the_matrix_are_new_rows(run):
    """Ids 151,669..151,935 exist in the base's matrix too; what comes out is the new row."""
    model = run.model()
    ids = torch.tensor([[151_668, 151_669, 151_935, 164_020]])
    with torch.no_grad():
        found = model.embedding(ids)[0]
    assert torch.equal(found[0], model.embedding.weight[151_668])
    assert torch.equal(found[1:], model.embedding.rows[[0, 266, 12_351]])
    base_rows, new = model.head()
    assert base_rows.shape[0] == 151_669 and new.shape[0] == 12_352


def test_the_exported_model_has_164021_rows_and_our_logits(run, tmp_path):
    model, space = run.model(), load(run.root / "token_space")
    model.save_adapter(tmp_path / "adapter")
    sound = space.audio_to_global(np.random.default_rng(0).integers(0, 1024, (4, 3)))
    parity = export_model(
        tmp_path / "out",
        base=run.root / "base",
        token_space=run.root / "token_space",
        space=space,
        adapter=tmp_path / "adapter",
        codecs=tmp_path / "no codecs",
        lengths=Lengths((1, 4), (3, 3), 32),
        probes=[build(space, "t2a", [1, 151_668], sound).input_ids],
        dtype=torch.float32,
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vocab_size"] == 164_021 and parity.difference < 1e-5 and parity.same_choice == 1.0


@pytest.mark.skipif(not REAL, reason="MMPT_QWEN3_TOKENIZER names no folder")
def test_the_real_tokenizer_is_the_published_one_and_keeps_its_ids(run):
    path = run.root / "token_space" / "tokenizer" / "tokenizer.json"
    assert sha256_file(path) == "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"
    tokenizer = Tokenizer.from_file(str(path))
    assert tokenizer.encode("a red circle").ids == [64, 2518, 12671]
    assert tokenizer.token_to_id("<|endoftext|>") == 151_643 and tokenizer.token_to_id("</think>") == 151_668
