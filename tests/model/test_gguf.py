"""A base model in a GGUF file: unpacked to the folder that every later stage reads, weights and tokenizer."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from mmpt.model.base import copy_pretrained
from mmpt.shards.token_space import copy_tokenizer, vocabulary_size
from mmpt.store.errors import UserError

gguf = pytest.importorskip("gguf", reason="package gguf is not installed")

WORDS = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]  # GPT-2's bytes
TOKENS = [*WORDS, "\u0120a", "he", "<|endoftext|>"]
SIZES = {"embedding": 16, "head": 8, "mlp": 24, "heads": 2}


def write_gguf(path) -> dict[str, np.ndarray]:
    """A one-layer llama with random weights; returns them by their GGUF names."""
    rng, width, heads = np.random.default_rng(0), SIZES["embedding"], SIZES["heads"]
    shapes = {
        "token_embd.weight": (len(TOKENS), width),
        "output_norm.weight": (width,),
        "blk.0.attn_norm.weight": (width,),
        "blk.0.ffn_norm.weight": (width,),
        **{f"blk.0.attn_{part}.weight": (heads * SIZES["head"], width) for part in ("q", "k", "v")},
        "blk.0.attn_output.weight": (width, heads * SIZES["head"]),
        "blk.0.ffn_gate.weight": (SIZES["mlp"], width),
        "blk.0.ffn_up.weight": (SIZES["mlp"], width),
        "blk.0.ffn_down.weight": (width, SIZES["mlp"]),
    }
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(SIZES["mlp"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(["\u0120 a", "h e"])
    writer.add_token_types([1] * (len(TOKENS) - 1) + [3])
    writer.add_eos_token_id(len(TOKENS) - 1)
    writer.add_bos_token_id(len(TOKENS) - 1)
    for name, value in weights.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def test_a_gguf_file_becomes_a_plain_folder(tmp_path):
    (tmp_path / "source").mkdir()
    weights = write_gguf(tmp_path / "source" / "tiny.gguf")
    copy_pretrained(tmp_path / "copy", str(tmp_path / "source"), "tiny.gguf", torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "copy")
    embedding = model.get_input_embeddings().weight
    assert torch.equal(embedding, torch.from_numpy(weights["token_embd.weight"]))
    down = model.model.layers[0].mlp.down_proj.weight
    assert torch.equal(down, torch.from_numpy(weights["blk.0.ffn_down.weight"]))
    assert model.get_output_embeddings().weight is embedding  # the file has no output matrix: tied
    assert not hasattr(model.config, "quantization_config") and model.dtype == torch.float32


def test_its_tokenizer_comes_out_of_the_file_too(tmp_path):
    (tmp_path / "source").mkdir()
    write_gguf(tmp_path / "source" / "tiny.gguf")
    copy_tokenizer(str(tmp_path / "source"), tmp_path / "tokenizer", "tiny.gguf")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer" / "tokenizer.json"))
    assert tokenizer.encode("he a", add_special_tokens=False).ids == [
        TOKENS.index("he"),
        TOKENS.index("\u0120a"),
    ]
    assert vocabulary_size(tmp_path / "tokenizer") == len(TOKENS)


def test_what_is_wrong_with_a_gguf_base_is_said(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(UserError, match="set base.gguf_file: bad.gguf"):
        copy_pretrained(tmp_path / "copy", str(tmp_path), None, torch.float32)
    with pytest.raises(UserError, match=r"base.gguf_file: no such file; found good.gguf"):
        copy_pretrained(tmp_path / "copy", str(tmp_path), "good.gguf", torch.float32)
    with pytest.raises(UserError, match="cannot read this GGUF file"):
        copy_pretrained(tmp_path / "copy", str(tmp_path), "bad.gguf", torch.float32)
    with pytest.raises(UserError, match="cannot read the tokenizer of this GGUF file"):
        copy_tokenizer(str(tmp_path), tmp_path / "tokenizer", "bad.gguf")
