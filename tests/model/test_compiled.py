"""Decoder layers through torch.compile: one graph for all layers and lengths, equal numbers, in training steps only."""

import pytest
import torch
from torch._dynamo.utils import counters
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from mmpt.model import attention, compiled
from mmpt.model.attention import Packed
from mmpt.model.compiled import compile_layers
from mmpt.model.layers import decoder_layers
from mmpt.store.errors import UserError
from mmpt.train.objective import backward
from tests.train.small_run import fresh, small_loader, small_settings


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def steps(model, micro_rows=2):
    """(tally, gradients) of steps with ever more tokens and sequences."""
    found = []
    for step, tokens in enumerate((160, 260, 90)):
        model.zero_grad()
        batch = small_loader(model.space, 4, tokens=tokens).batch(step)
        tally = backward(model, batch, small_settings(4, micro_rows=micro_rows), None)
        grads = {key: p.grad.clone() for key, p in model.adapter_parameters().items() if p.grad is not None}
        found.append((tally.values, grads))
    return found


def graphs():
    """(how many were made, how many breaks there were)."""
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


@pytest.mark.parametrize(
    "dtype, checkpointed, off",
    [
        (torch.bfloat16, True, 2e-2),
        pytest.param(torch.float32, False, 0.0, marks=pytest.mark.slow),  # three seconds for the same path
    ],
)
def test_all_layers_and_lengths_are_one_graph_and_the_numbers_stay(tmp_path, dtype, checkpointed, off):
    """Traced by the compiler and its autograd, run by torch's own kernels, which draw the same dropout."""
    model = fresh(tmp_path / "base", dropout=0.1, tied=False, dtype=dtype).train()
    model.checkpoint_layers(checkpointed)
    expected = steps(model)
    model.compile_layers("aot_eager")
    for (values, grads), (again, found) in zip(expected, steps(model), strict=True):
        assert abs(again[0] / values[0] - 1) <= off
        assert all((grads[key] - found[key]).norm() <= off * grads[key].norm() for key in grads)
    assert graphs() == (1, 0)
    model.eval()
    with torch.no_grad():
        batch = small_loader(model.space, 4).batch(0)
        model.hidden(torch.from_numpy(batch.input_ids), torch.from_numpy(batch.position_ids))
        model.lm.get_base_model().generate(torch.arange(5)[None], max_new_tokens=3, do_sample=False)
    assert graphs() == (1, 0)


def test_on_cudas_way_too_no_length_is_a_constant(monkeypatch):
    """On "meta", with the kernel that CUDA has: which lengths, how many, and the longest make no new graph."""
    monkeypatch.setattr(attention, "_has_kernel", lambda device: True)
    meta = torch.device("meta")

    class Layer(torch.nn.Module):
        def forward(self, x, packed):
            return attention.attention(self, x, x[:, :1], x[:, :1], None, packed=packed, scaling=0.3)[0] * 2

    layer = Layer().train()
    step = torch.compile(Layer.forward, backend="aot_eager", dynamic=True, fullgraph=True)
    # The longest has over 128 tokens: torch 2.15 chooses by that, which makes two graphs and no more.
    for lengths in ((900, 5, 5), (300,), (400, 2, 2, 2, 1), (7000, 3)):
        x = torch.empty(1, 4, sum(lengths), 8, dtype=torch.bfloat16, device=meta, requires_grad=True)
        compiled._forward(layer, Layer.forward, step, x, packed=Packed.of(lengths, meta)).sum().backward()
        assert x.grad.shape == x.shape
    assert graphs() == (1, 0)


@pytest.mark.slow  # the compiler's C++: half a minute
@pytest.mark.parametrize("dtype, off", [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_compiled_steps_are_the_plain_ones_to_rounding(tmp_path, dtype, off):
    model = fresh(tmp_path / "base", tied=False, dtype=dtype).train()
    expected = steps(model)
    model.compile_layers()
    for (values, grads), (again, found) in zip(expected, steps(model), strict=True):
        assert abs(again[0] / values[0] - 1) < off
        for key in grads:
            assert (grads[key] - found[key]).norm() <= off * grads[key].norm()
    assert graphs() == (1, 0)


class Other(Qwen3DecoderLayer):
    def forward(self, hidden_states, **rest):
        return 2 * super().forward(hidden_states, **rest)


def test_layers_of_two_kinds_keep_their_own_code(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **how: function)
    model = fresh(tmp_path / "base").train()
    decoder_layers(model.lm.get_base_model())[1].__class__ = Other
    expected = steps(model)
    model.compile_layers("aot_eager")
    assert all(torch.equal(one, again) for (one, _), (again, _) in zip(expected, steps(model), strict=True))


def test_attention_that_is_no_one_operator_is_told_in_a_line(tmp_path, monkeypatch):
    model = fresh(tmp_path / "base").lm.get_base_model()
    model.config.attention_dropout = 0.1
    with pytest.raises(UserError, match="attention_dropout 0.1"):
        compile_layers(model, "aot_eager")
    model.config.attention_dropout = 0.0
    cuda = torch.device("cuda")
    for has, dtype, takes in (
        (True, torch.float32, False),
        (True, torch.bfloat16, True),
        (False, torch.bfloat16, False),
    ):
        monkeypatch.setattr(attention, "_has_kernel", lambda device, has=has: has)
        assert (attention.obstacle_to_compiling(model.config, cuda, dtype) is None) == takes
    assert attention.obstacle_to_compiling(model.config, torch.device("cpu"), torch.float32) is None


def test_no_compiler_no_layers_and_no_stream_are_told_in_a_line(tmp_path, monkeypatch):
    model = fresh(tmp_path / "base")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="no clang\\+\\+-0 on the path"):
        patch.setenv("CXX", "clang++-0")
        model.compile_layers()
    assert all("forward" not in vars(layer) for layer in decoder_layers(model.lm.get_base_model()))
    model.packs = False
    with pytest.raises(UserError, match="only a base that takes packed streams"):
        model.compile_layers()

    class Plain(torch.nn.Module):
        def get_decoder(self):
            return torch.nn.Linear(2, 2)

    with pytest.raises(UserError, match="no layers to compile"):
        compile_layers(Plain())
