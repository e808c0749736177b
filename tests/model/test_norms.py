"""RMSNorms of 16-bit bases: which get the kernel, and that it computes the same."""

import copy

import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from mmpt.model import norms


class Twice(LlamaRMSNorm):
    def forward(self, hidden_states):
        return 2 * super().forward(hidden_states)


@pytest.mark.parametrize(
    "norm, dtype, fits",
    [
        (Qwen3RMSNorm(8), torch.bfloat16, True),
        (LlamaRMSNorm(8), torch.float16, True),
        (LlamaRMSNorm(8), torch.float32, False),
        (GemmaRMSNorm(8), torch.bfloat16, False),
        (Twice(8), torch.bfloat16, False),
        (nn.LayerNorm(8), torch.bfloat16, False),
    ],
)
def test_only_what_computes_that_norm_in_16_bits_gets_the_kernel(norm, dtype, fits):
    model = nn.Sequential(copy.deepcopy(norm).to(dtype), nn.Linear(8, 8).to(dtype))
    assert norms.fuse_norms(model) == fits and isinstance(model[0], norms.OneKernel) == fits
    assert isinstance(model[0], type(norm)) and list(model.state_dict()) == list(
        nn.Sequential(norm, model[1]).state_dict()
    )


def test_its_numbers_are_transformers_to_rounding_and_the_cpu_keeps_transformers_own(monkeypatch):
    torch.manual_seed(0)
    theirs = Qwen3RMSNorm(64).to(torch.bfloat16)
    nn.init.normal_(theirs.weight)
    ours = nn.Sequential(copy.deepcopy(theirs))
    norms.fuse_norms(ours)
    found = []
    for norm in (theirs, ours, ours):
        x = torch.randn(50, 64, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
        out = norm(x)
        out.backward(torch.ones_like(out))
        found.append((out, x.grad))
        if norm is ours:
            monkeypatch.setattr(norms, "on_kernel", lambda stream: True)
    expected, same, kernel = found
    assert all(map(torch.equal, expected, same)) and not torch.equal(expected[0], kernel[0])
    for one, two in zip(expected, kernel, strict=True):
        assert (one - two).norm() <= 4e-3 * one.norm()
