"""Packed sequences: bases that keep them apart pass, bases that carry a state across the border are refused."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mmpt.model.isolation import LENGTHS, packing_isolation, require_isolation
from mmpt.model.multimodal import MultimodalLM, check_base, probe_lora
from mmpt.store.errors import UserError
from tests.model.tiny_model import small_model, small_space

COMMON = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, intermediate_size=48)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2)
LINEAR = dict(
    layer_types=["linear_attention", "full_attention"],
    head_dim=8,
    linear_num_value_heads=4,
    linear_num_key_heads=2,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
GPT2 = dict(vocab_size=64, n_embd=32, n_layer=2, n_head=4)
APART = {
    "qwen3": {**COMMON, **HEADS, "head_dim": 8},
    "mistral": {**COMMON, **HEADS, "sliding_window": 8},
    "qwen3_moe": {**COMMON, **HEADS, **EXPERTS, "head_dim": 8, "decoder_sparse_step": 1},
    "gpt2": GPT2,
}
LEAKING = {
    "qwen3_next": {**COMMON, **HEADS, **LINEAR, **EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_5_text": {**COMMON, **HEADS, **LINEAR},
    "lfm2": {**COMMON, **HEADS, "layer_types": ["conv", "full_attention"]},
    "falcon_h1": {
        **COMMON,
        **HEADS,
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
        "mamba_d_state": 8,
    },
    "mamba2": dict(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_heads=8, head_dim=8, state_size=8, n_groups=1
    ),
}
UNABLE = {
    "mamba": dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=8),
    "bloom": dict(vocab_size=64, hidden_size=32, n_layer=2, n_head=4),
}


def model_of(kind, fields, dtype=torch.float32):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**fields, "bos_token_id": None, "eos_token_id": None})
    causal = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    check_base(causal, small_space(), "base.path")
    return MultimodalLM.around(causal, small_space(), probe_lora(causal), seed=0)


def random_sequences():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 50, n) for n in LENGTHS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", APART)
def test_attention_keeps_sequences_apart(kind, dtype):
    found = require_isolation(model_of(kind, APART[kind], dtype), "base.path")
    assert found.isolated and found.neighbour == 0 and found.alone < found.alone_bound / 10


@pytest.mark.parametrize("kind", LEAKING)
def test_a_state_that_crosses_the_border_is_refused_in_one_line(kind):
    with pytest.raises(UserError, match="packed sequences change each other") as refused:
        require_isolation(model_of(kind, LEAKING[kind]), "base.path")
    assert "\n" not in str(refused.value)


def test_the_smallest_leak_shows_in_16_bits():
    """Lfm2's convolution reaches two tokens back: 8e-4 of the states, less than bfloat16 rounds."""
    assert not packing_isolation(model_of("lfm2", LEAKING["lfm2"], torch.bfloat16), random_sequences()).isolated


@pytest.mark.parametrize("kind", UNABLE)
def test_a_base_that_does_not_run_is_refused_in_one_line(kind):
    with pytest.raises(UserError, match="does not run on packed sequences") as refused:
        require_isolation(model_of(kind, UNABLE[kind]), "base.path")
    assert "\n" not in str(refused.value)


def test_positions_that_depend_on_the_pack_are_seen(tmp_path, monkeypatch):
    """Another distance between tokens: rotary positions do not show a mere shift."""
    model = small_model(tmp_path / "base")
    right = model.hidden

    def stretched(ids, positions, **how):
        return right(ids, positions * int((positions == 0).sum()), **how)

    assert packing_isolation(model, random_sequences()).isolated
    monkeypatch.setattr(model, "hidden", stretched)
    found = packing_isolation(model, random_sequences())
    assert not found.isolated and found.neighbour == 0 and found.alone > found.alone_bound


def test_mode_is_restored_and_one_sequence_is_no_test(tmp_path):
    model = small_model(tmp_path / "base").train()
    packing_isolation(model, random_sequences())
    assert model.training
    with pytest.raises(ValueError, match="two sequences"):
        packing_isolation(model, random_sequences()[:1])
