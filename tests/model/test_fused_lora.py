"""Our LoRA layers against PEFT's: outputs and gradients, narrow and wide, with dropout, merged, first in a chain, over
a base in 16 bits."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmpt.model.fused_lora import SlimLora, fold_small_layers

WIDE, NARROW = (96, 64), (16, 24)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(*WIDE), nn.Linear(*WIDE[::-1], bias=False)
        self.small = nn.Linear(*NARROW)

    def forward(self, x, y):
        return self.second(torch.tanh(self.first(x))), self.small(y)


def models(dropout=0.0, dtype=torch.float32, adapters=None):
    """(PEFT's, ours, how many are folded); adapters: the dtype of A and B, None: the base's."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=8, lora_alpha=24, lora_dropout=dropout, target_modules=["first", "second", "small"], init_lora_weights=False
    )
    plain = get_peft_model(Pair().to(dtype), config, autocast_adapter_dtype=False)
    for name, parameter in plain.named_parameters():
        parameter.data = parameter.data.to(adapters or dtype) if ".lora_" in name else parameter.data
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
    kinds = {type(module) for module in ours.modules() if isinstance(module, LoraLinear)}
    assert kinds == {LoraLinear}


def exact(model, dropout):
    """A copy in float64 of the very same numbers, with PEFT's forward."""
    _, wide, _ = models(dropout, torch.float64)
    wide.load_state_dict({key: value.double() for key, value in model.state_dict().items()})
    return wide


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inputs_ask", [False, True])
def test_a_base_in_16_bits_errs_no_more_than_peft_does(dropout, dtype, inputs_ask, monkeypatch):
    """Against float64: outputs, the gradient of the input, and those of A and B, which stay fp32."""
    plain, ours, folded = models(dropout, dtype, torch.float32)
    assert folded == 0 and all(type(ours.base_model.model.get_submodule(n)) is SlimLora for n in ("first", "small"))
    if dropout:  # its draws differ by dtype
        monkeypatch.setattr(
            nn.functional, "dropout", lambda x, p, *_: x * (torch.arange(x.shape[-1]) % 3 > 0) / (1 - p)
        )
    x = torch.randn(2, 50, WIDE[0]).to(dtype).requires_grad_(inputs_ask)
    y = torch.randn(3, NARROW[0]).to(dtype)
    found = []
    for model, cast in ((exact(plain, dropout), torch.float64), (plain, dtype), (ours, dtype)):
        one = x.detach().to(cast).requires_grad_(inputs_ask)
        parts = results(model, one, y.to(cast))
        found.append([part.detach().double() for part in (*parts, *([one.grad] if inputs_ask else []))])
    for wanted, theirs, mine in zip(*found, strict=True):
        norm = wanted.norm()
        assert (mine - wanted).norm() / norm <= 1.5 * (theirs - wanted).norm() / norm + 2 * torch.finfo(dtype).eps
    grads = [p.grad for p in ours.parameters() if p.requires_grad]
    assert len(grads) == 6 and all(grad.dtype == torch.float32 for grad in grads)


class Seen(TorchDispatchMode):
    """Which dtypes the products had, or what they are made from, and how many numbers other operators wrote in fp32."""

    def __init__(self):
        super().__init__()
        self.products, self.wide = set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_", "bmm"):
            self.products.add(out.dtype)
        elif func.namespace == "mmpt_lora":
            self.products |= {one.dtype for one in args if isinstance(one, torch.Tensor)}
        elif isinstance(out, torch.Tensor) and out.dtype == torch.float32 and not func.is_view:
            self.wide = max(self.wide, out.numel())
        return out


def test_over_16_bits_nothing_as_long_as_the_stream_is_fp32():
    plain, ours, _ = models(dtype=torch.bfloat16, adapters=torch.float32)
    seen = []
    for model in (plain, ours):
        x = torch.randn(2, 500, WIDE[0]).bfloat16().requires_grad_()
        with Seen() as one:
            model.base_model.model.first(x).backward(torch.ones(2, 500, WIDE[1], dtype=torch.bfloat16))
        seen.append(one)
    assert torch.float32 in seen[0].products and seen[0].wide >= 1000 * min(WIDE)
    assert seen[1].products == {torch.bfloat16} and seen[1].wide <= 8 * max(WIDE)  # A and B's gradients


def test_a_frozen_a_and_b_get_no_gradient_and_the_input_does():
    _, ours, _ = models(dtype=torch.bfloat16, adapters=torch.float32)
    ours.requires_grad_(False)
    x = torch.randn(2, 5, WIDE[0]).bfloat16().requires_grad_()
    ours.base_model.model.first(x).sum().backward()
    assert x.grad is not None and all(p.grad is None for p in ours.parameters())


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("asking", [(0, 1, 4, 5), (0, 1), (4, 5)])
def test_the_operator_is_well_formed(own, asking):
    """The shapes and dtypes declared to the compiler are right, whichever gradients are wanted."""
    shapes = ((2, 5, 16), (2, 5, 16), (24, 16), (24,), (4, 16), (24, 4))
    given = [torch.randn(shape).bfloat16() for shape in shapes]
    given[1] = given[1] if own else None
    for at in asking:
        if given[at] is not None:
            given[at].requires_grad_()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.mmpt_lora.linear, (*given, 0.5), test_utils=checks)
    out, low = torch.ops.mmpt_lora.linear(*given, 0.5)
    wants = (own, *(at in asking for at in (0, 4, 5)))
    inputs = (torch.ones_like(out), given[0], low, given[2], given[4], given[5], 0.5, *wants)
    detached = [one.detach() if isinstance(one, torch.Tensor) else one for one in inputs]
    torch.library.opcheck(torch.ops.mmpt_lora.linear_backward, detached, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpt2s_transposed_layers_keep_pefts_forward(dtype):
    """Square ones would be computed with the transposed matrix, without an error."""
    from transformers import GPT2Config, GPT2LMHeadModel

    causal = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2)).to(dtype).eval()
    ids = torch.arange(6)[None]
    expected = causal(ids).logits
    lm = get_peft_model(causal, LoraConfig(r=16, target_modules=["c_proj"]))
    assert fold_small_layers(lm) == 0
    torch.testing.assert_close(lm.eval()(ids).logits, expected)
