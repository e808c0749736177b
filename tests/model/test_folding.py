"""Our forwards of LoRA layers against PEFT's own: outputs and gradients, narrow and wide, with dropout, merged, first in line."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from mmpt.model.folding import fold_small_layers

WIDE, NARROW = (96, 64), (16, 24)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(*WIDE), nn.Linear(*WIDE[::-1], bias=False)
        self.small = nn.Linear(*NARROW)

    def forward(self, x, y):
        return self.second(torch.tanh(self.first(x))), self.small(y)


def models(dropout=0.0, dtype=torch.float32):
    torch.manual_seed(0)
    config = LoraConfig(
        r=8, lora_alpha=24, lora_dropout=dropout, target_modules=["first", "second", "small"], init_lora_weights=False
    )
    plain = get_peft_model(Pair().to(dtype), config, autocast_adapter_dtype=False)
    ours = copy.deepcopy(plain)
    return plain, ours, fold_small_layers(ours)


def results(model, x, y):
    torch.manual_seed(1)
    one, two = model(x, y)
    (one.square().sum() + two.square().sum()).backward()
    return [one, two, *(p.grad for p in model.parameters() if p.requires_grad)]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("inputs_ask", [False, True])
def test_outputs_and_gradients_are_those_of_peft(dropout, inputs_ask):
    plain, ours, folded = models(dropout)
    assert folded == (1 if dropout == 0 else 0)
    x = torch.randn(2, 5, WIDE[0]).requires_grad_(inputs_ask)
    y = torch.randn(3, NARROW[0])
    for expected, found in zip(results(plain, x, y), results(ours, x, y), strict=True):
        assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_merged_and_disabled_layers_are_the_base_alone():
    _, ours, _ = models()
    x, y = torch.randn(2, 5, WIDE[0]), torch.randn(3, NARROW[0])
    with torch.no_grad():
        before = ours(x, y)
        with ours.disable_adapter():
            alone = ours(x, y)
        ours.merge_adapter()
        merged = ours(x, y)
    for one, two, base in zip(before, merged, alone, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
        assert (one - base).abs().max() > 0.1


def test_other_dtypes_keep_pefts_forward():
    _, ours, folded = models(dtype=torch.float64)
    assert folded == 0
    assert all("forward" not in vars(module) for module in ours.modules())
