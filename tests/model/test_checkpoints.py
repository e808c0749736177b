"""Checkpoints: whole or absent, exact, refused where they do not belong."""

import json

import pytest
import torch

from mmpt.model import checkpoints
from mmpt.model.checkpoints import STATE, Saved, latest, load_checkpoint, save_checkpoint, step_folder
from mmpt.model.multimodal import MultimodalLM
from mmpt.store.errors import UserError
from mmpt.store.tensors import load_tensors, read_meta, save_tensors
from mmpt.train.schedule import make_optimizer
from tests.model.tiny_model import LORA, small_model, small_space

RATES = {"lora": 1e-2, "embed": 1e-2, "head": 1e-2}
IDS = torch.arange(60)[None]


def trained(folder, steps=2, tied=True):
    model = small_model(folder, tied=tied)
    optimizer = make_optimizer(model, RATES, (0.9, 0.95), 0.1)
    for _ in range(steps):
        one_step(model, optimizer)
    return model, optimizer


def one_step(model, optimizer):
    optimizer.zero_grad()
    noise = torch.rand(model.hidden(IDS).shape)  # draws from the random state that a checkpoint keeps
    (model.logits(model.hidden(IDS) * noise)).logsumexp(-1).mean().backward()
    optimizer.step()


@pytest.mark.parametrize("tied", [True, False])
def test_going_on_equals_not_having_stopped(tmp_path, tied):
    torch.manual_seed(3)
    model, optimizer = trained(tmp_path / "base", tied=tied)
    saved = Saved(2, {"steps": 4}, {"next_step": 2}, {"open": [0.1, 1 / 3]})
    save_checkpoint(tmp_path / "step_2", model, optimizer, saved)
    one_step(model, optimizer)
    torch.manual_seed(77)
    other, its_optimizer = trained(tmp_path / "base2", steps=0, tied=tied)
    assert load_checkpoint(tmp_path / "step_2", other, its_optimizer) == saved
    one_step(other, its_optimizer)
    for key, parameter in model.adapter_parameters().items():
        twin = other.adapter_parameters()[key]
        assert torch.equal(parameter, twin)
        for moment, value in optimizer.state[parameter].items():
            assert torch.equal(value, its_optimizer.state[twin][moment]), moment


def test_the_same_state_gives_the_same_bytes(tmp_path):
    model, optimizer = trained(tmp_path / "base")
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, model, optimizer, Saved(2, {}, {}, {}))
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors", STATE]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("dies_in", ["save_adapter", "save_tensors", "publish_folder"])
def test_a_death_while_saving_leaves_the_last_good_one(tmp_path, monkeypatch, dies_in):
    model, optimizer = trained(tmp_path / "base")
    root = tmp_path / "steps"
    save_checkpoint(step_folder(root, 2), model, optimizer, Saved(2, {}, {}, {}))
    before = {path.name: path.read_bytes() for path in step_folder(root, 2).iterdir()}

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, dies_in, die)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(step_folder(root, 4), model, optimizer, Saved(4, {}, {}, {}))
    assert latest(root) == step_folder(root, 2)
    assert before == {path.name: path.read_bytes() for path in step_folder(root, 2).iterdir()}
    save_checkpoint(step_folder(root, 4), model, optimizer, Saved(4, {}, {}, {}))
    assert latest(root) == step_folder(root, 4) and sorted(p.name for p in root.iterdir()) == [
        "step_2",
        "step_4",
    ]


@pytest.mark.parametrize(
    "space, lora, words",
    [
        (small_space(codebook_size=7), LORA, "another token space"),
        (small_space(), {**LORA, "r": 2}, "another LoRA configuration"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path, space, lora, words):
    model, optimizer = trained(tmp_path / "base")
    save_checkpoint(tmp_path / "step_2", model, optimizer, Saved(2, {}, {}, {}))
    other = MultimodalLM.from_base(tmp_path / "base", space, lora, seed=1)
    with pytest.raises(UserError, match=words):
        load_checkpoint(tmp_path / "step_2", other, make_optimizer(other, RATES, (0.9, 0.95), 0.0))


def test_rows_of_another_shape_are_refused_even_where_the_metadata_lies(tmp_path):
    model, optimizer = trained(tmp_path / "base")
    save_checkpoint(tmp_path / "step_2", model, optimizer, Saved(2, {}, {}, {}))
    path = tmp_path / "step_2" / "adapter_model.safetensors"
    tensors, meta = load_tensors(path, "torch"), read_meta(path)
    tensors[model.row_key("embed")] = tensors[model.row_key("embed")][:-1]
    save_tensors(path, tensors, meta)
    with pytest.raises(UserError, match=r"another shape.*\[39, 16\].*\[40, 16\]"):
        load_checkpoint(tmp_path / "step_2", model, optimizer)


def test_a_checkpoint_without_its_trainer_state_is_named(tmp_path):
    model, optimizer = trained(tmp_path / "base")
    with pytest.raises(UserError, match="no such file"):
        load_checkpoint(tmp_path / "nothing", model, optimizer)


def test_frozen_weights_stay_bit_for_bit_with_weight_decay(tmp_path):
    model = small_model(tmp_path / "base", tied=False)
    before = {key: p.clone() for key, p in model.frozen().items()}
    rows = model.embedding.rows.clone()
    optimizer = make_optimizer(model, RATES, (0.9, 0.95), 0.5)
    for _ in range(3):
        one_step(model, optimizer)
    assert all(torch.equal(before[key], p) for key, p in model.frozen().items())
    assert not (model.embedding.rows == rows).all(1).any()  # decay moves even rows without a gradient


def test_the_metadata_is_plain_json(tmp_path):
    model, optimizer = trained(tmp_path / "base")
    save_checkpoint(tmp_path / "step_2", model, optimizer, Saved(2, {"lr": {"lora": 0.1}}, {}, {}))
    meta = read_meta(tmp_path / "step_2" / STATE)
    assert meta["token_space"] == model.space.digest and json.loads(json.dumps(meta)) == meta
