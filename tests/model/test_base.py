"""The base model: a tiny one learns from text and repeats byte for byte; a pretrained one is copied."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from mmpt.model.base import copy_pretrained, held_out_loss, make_tiny, unigram_loss
from mmpt.model.tiny import Pretraining, build_tiny
from mmpt.store.errors import UserError
from tests.model.tiny_model import TEXT, save_base, small_space

CONFIG = dict(
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    intermediate_size=16,
    tie_word_embeddings=True,
)


def stream(n, seed):
    """Text in which each id is followed by the next one, three times out of four."""
    rng = np.random.default_rng(seed)
    ids = [0]
    for _ in range(n - 1):
        ids.append((ids[-1] + 1) % TEXT if rng.random() < 0.75 else int(rng.integers(TEXT)))
    return np.array(ids, np.int32)


def test_pretraining_beats_the_unigram_and_repeats(tmp_path):
    plan = Pretraining(steps=40, lr=1e-2, tokens_per_step=512, row_len=32)
    reports, steps = [], []
    for name in ("a", "b"):
        torch.manual_seed(ord(name))  # the surroundings' random state has no say
        steps.clear()
        reports.append(
            make_tiny(
                tmp_path / name,
                small_space(),
                CONFIG,
                plan,
                stream(4000, 1),
                stream(1000, 2),
                seed=3,
                on_step=lambda step, loss: steps.append(step),
            )
        )
        assert steps == list(range(40))
    assert reports[0] == reports[1]
    learned = reports[0]["pretraining"]
    assert learned["heldout_nll"] < learned["unigram_nll"] - 0.3 and learned["heldout_nll_before"] > 3.8
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert held_out_loss(again, stream(1000, 2)) == pytest.approx(learned["heldout_nll"], abs=1e-5)


def test_the_unigram_loss_is_an_entropy_on_its_own_stream():
    ids = np.repeat(np.arange(4), 5000)
    assert unigram_loss(ids, ids, 4) == pytest.approx(np.log(4), abs=1e-6)


def test_a_pretrained_folder_is_copied_whole(tmp_path):
    source = save_base(tmp_path / "source")
    copy_pretrained(tmp_path / "copy", str(source), None, torch.float32)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "copy" / file).read_bytes() == (source / file).read_bytes()


def test_a_missing_model_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="config.json and"):
        copy_pretrained(tmp_path / "copy", str(tmp_path / "empty"), None, torch.float32)
    with pytest.raises(UserError, match="base.path: no such model; found /no/such/folder"):
        copy_pretrained(tmp_path / "copy", "/no/such/folder", None, torch.float32)


def test_an_unknown_field_of_the_configuration_is_named():
    with pytest.raises(UserError, match="unknown key 'hiden_size'"):
        build_tiny({"hiden_size": 8}, 50, 0)


def test_too_little_text_is_named(tmp_path):
    plan = Pretraining(steps=2, lr=1e-2, tokens_per_step=64, row_len=32)
    with pytest.raises(UserError, match="not enough text to pretrain on"):
        make_tiny(
            tmp_path / "a",
            small_space(),
            CONFIG,
            plan,
            stream(40, 1),
            stream(1000, 2),
            seed=3,
            on_step=lambda *a: None,
        )
