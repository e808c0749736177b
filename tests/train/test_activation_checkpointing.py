"""Activation checkpointing changes what is kept, and no bit of what is computed."""

import pytest
import torch
from torch import nn

from mmpt.model.activation_checkpointing import checkpoint_layers, layers_of
from mmpt.store.errors import UserError
from mmpt.train.objective import backward
from tests.train.small_run import fresh, small_loader, small_settings


def gradients(model):
    """Objective and gradients of a step with two micro-batches and more."""
    model.zero_grad()
    tally = backward(model, small_loader(model.space, 4).batch(1), small_settings(4, micro_rows=2), None)
    grads = {key: p.grad.clone() for key, p in model.adapter_parameters().items() if p.grad is not None}
    return tally.values, grads


@pytest.mark.parametrize("rows_only", [False, True])
@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("count", [True, 1])
def test_gradients_are_equal_to_the_bit_with_dropout_too(tmp_path, rows_only, packs, count):
    model = fresh(tmp_path / "base", dropout=0.2, tied=False).train()
    model.packs &= packs
    if rows_only:
        model.train_rows_only()
    values, expected = gradients(model)
    model.checkpoint_layers(count)
    forwards = counted_forwards(model)
    again, found = gradients(model)
    assert torch.equal(values, again) and found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)
    micro, wanted = forwards[1], [2, 2] if count is True else [2, 1]
    assert forwards[0] == [n * micro for n in wanted]


def counted_forwards(model):
    """([forward passes through each layer], how many the model was given), filled in as they come."""
    layers = model.decoder.layers
    counts = Counts([0] * len(layers))
    for index, layer in enumerate(layers):
        layer.mlp.register_forward_pre_hook(lambda *_, index=index: counts.layer(index))
    model.decoder.register_forward_pre_hook(lambda *_: counts.whole())
    return counts


class Counts:
    def __init__(self, passes):
        self.passes, self.given = passes, 0

    def layer(self, index):
        self.passes[index] += 1

    def whole(self):
        self.given += 1

    def __getitem__(self, at):
        return (self.passes, self.given)[at]


def test_it_holds_in_training_alone(tmp_path):
    model = fresh(tmp_path / "base")
    model.checkpoint_layers(True)
    forwards = counted_forwards(model.eval())
    model.hidden(torch.arange(9)[None]).sum().backward()
    assert forwards.passes == [1, 1]
    model.checkpoint_layers(False)
    assert not any(layer.gradient_checkpointing for layer in model.decoder.layers)


def test_a_number_of_layers_is_at_most_all_of_them():
    assert [layers_of(count, 4) for count in (False, True, 0, 1, 3, 9)] == [0, 4, 0, 1, 3, 4]


def test_an_architecture_without_it_is_refused():
    class Plain(nn.Module):
        def get_decoder(self):
            return nn.Linear(2, 2)

    assert checkpoint_layers(Plain(), False) == 0
    with pytest.raises(UserError, match="no activation checkpointing"):
        checkpoint_layers(Plain(), True)
