"""Gate A2's probe: clean on the model as it is built, and each way of getting it wrong is seen."""

import pytest
import torch

from mmpt.evaluate import trainable
from mmpt.evaluate.trainable import held, lora_targets, moved, parameter_counts, row_matrices, used_rows
from mmpt.model.layers import decoder_layers
from mmpt.train.schedule import make_optimizer
from tests.model.tiny_model import LORA, small_model

LR = {"lora": 1e-3, "embed": 1e-3, "head": 1e-3}


@pytest.fixture()
def model(run):
    return run.workshop().untrained(dict(run.profile.data["lora"]))


def optimizer_of(model, lr=LR):
    return make_optimizer(model, lr, (0.9, 0.95), 0.0)


def offenders(found):
    return {name for name, (count, _) in found.items() if count}


def test_the_model_as_built_is_clean(model):
    optimizer = optimizer_of(model)
    assert offenders(held(model, optimizer)) == set()
    assert offenders(moved(model, optimizer)) == set()
    assert len(lora_targets(model)) == 2 * 3
    counts = parameter_counts(model)
    assert counts["embed_rows"] == model.space.n_new * 32 and counts["lora"] > 0 and counts["head_rows"] == 0


def gradients(model, monkeypatch, rows):
    monkeypatch.setattr(trainable, "PIECE_ROWS", rows)
    trainable.probe_step(model, torch.optim.SGD(model.adapter_parameters().values(), lr=0.0))
    return {name: one.grad.clone() for name, one in model.adapter_parameters().items()}


def test_the_probe_runs_in_pieces_whose_gradients_add_up(model, monkeypatch):
    """All of it at once kept 84 GiB of Qwen3-8B's activations."""
    monkeypatch.setattr(trainable, "ROW", 8)
    rows, sizes, hidden = len(trainable.probe_rows(model.space)), [], model.hidden
    whole = gradients(model, monkeypatch, rows)
    monkeypatch.setattr(model, "hidden", lambda ids, *_, **how: sizes.append(ids.numel()) or hidden(ids, *_, **how))
    pieces = gradients(model, monkeypatch, 3)
    assert rows > 9 and len(sizes) == -(-rows // 3) and max(sizes) == 3 * (8 + 2)
    for name, grad in whole.items():
        torch.testing.assert_close(pieces[name], grad)


def test_the_probe_checkpoints_activations_where_training_does(model):
    layer, runs = decoder_layers(model.lm.get_base_model())[0], []
    layer.mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    optimizer = optimizer_of(model)
    trainable.probe_step(model, optimizer)
    once = len(runs)
    model.checkpoint_layers(True)
    trainable.probe_step(model, optimizer)
    assert len(runs) == 3 * once  # the second step runs each layer forward twice
    assert offenders(moved(model, optimizer)) == set()


def test_a_target_may_be_named_by_the_end_of_its_path(tmp_path):
    """It is PEFT's rule; taken for unknown here, A2 would ask nothing of those layers."""
    model = small_model(tmp_path / "base", lora={**LORA, "target_modules": ["self_attn.q_proj"]})
    assert len(lora_targets(model)) == 2


def test_used_rows_are_codes_and_the_specials_of_the_formats(model):
    space, rows = model.space, used_rows(model.space).tolist()
    assert set(range(space.image_range.start, space.image_range.stop)) <= set(rows)
    assert all(set(range(s.start, s.stop)) <= set(rows) for s in space.audio_ranges)
    assert {space.special("gen_aud"), space.special("text_end")} <= set(rows)
    assert space.special("pad_mm") not in rows and len(rows) == len(set(rows))


def test_rows_or_lora_outside_the_optimizer_are_seen(model):
    model.embedding.rows.requires_grad_(False)
    assert offenders(held(model, optimizer_of(model))) == {"rows_not_in_optimizer"}
    assert offenders(moved(model, optimizer_of(model))) == {"trained_rows_unchanged"}
    model.train_rows_only()
    found = held(model, optimizer_of(model))
    assert found["lora_matrices_missing"] == (12, 12)
    assert offenders(moved(model, optimizer_of(model))) == {"lora_matrices_unchanged"}


def test_a_rate_of_zero_is_seen(model):
    optimizer = optimizer_of(model, {**LR, "embed": 0.0})
    assert offenders(held(model, optimizer)) == {"rows_not_in_optimizer"}
    assert offenders(moved(model, optimizer)) == {"trained_rows_unchanged"}


def test_a_base_weight_in_the_optimizer_is_seen(model):
    optimizer = optimizer_of(model)
    weight = model.embedding.weight.requires_grad_(True)
    optimizer.add_param_group({"params": [weight], "lr": 1e-3})
    found = moved(model, optimizer)
    assert found["frozen_tensors_changed"][0] >= 1


def test_one_dead_row_is_counted(model):
    rows = row_matrices(model)["embed_rows"]
    dead = used_rows(model.space)[7] - model.space.new_start
    rows.register_hook(lambda grad: grad.index_fill(0, torch.tensor([dead]), 0.0))
    assert moved(model, optimizer_of(model))["trained_rows_unchanged"][0] == 1
