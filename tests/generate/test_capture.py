"""The decoding step on a device of which nothing can be read (`meta`), held to what a captured graph forbids."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen3ForCausalLM

from mmpt.generate.engine import _shape
from mmpt.generate.slots import Item, Slots
from mmpt.model import attention
from tests.generate.random_lm import RandomLM

aten = torch.ops.aten
# What waits for the device, or makes a size of what it holds.
WAITS = {
    aten._local_scalar_dense.default,
    aten.item.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.unique_dim.default,
    aten._unique2.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.repeat_interleave.Tensor,
}


class Capture(TorchDispatchMode):
    """Refuses what a captured graph cannot hold; counts the rest."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        found = torch.utils._pytree.tree_leaves((args, kwargs, out))
        tensors = [one for one in found if isinstance(one, torch.Tensor)]
        elsewhere = [one for one in tensors if one.device.type != "meta" and one.dim()]
        assert func not in WAITS, f"{func} waits for the device"
        assert not elsewhere, f"{func} has a tensor on {elsewhere[0].device}"
        if func in (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default):
            indices = [one for one in args[1] if one is not None]
            assert all(one.dtype == torch.int64 for one in indices), f"{func} by a mask waits for the device"
        self.count += 1
        return out


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["sdpa", attention.NAME])
def test_a_step_holds_nothing_that_a_capture_forbids(model, items, guidance, kind, monkeypatch):
    prompts, grammars = items("t2a")
    rows = [(prompt, prompt[:2]) if guidance != 1 else (prompt,) for prompt in prompts]
    todo = [Item(row, one, 0.7, 5, 0.9, 1, True) for row, one in zip(rows, grammars, strict=True)]
    with torch.device("meta"):
        lm = Qwen3ForCausalLM(model.lm.config).eval()
    lm.set_attn_implementation(kind)
    with torch.no_grad():
        slots = Slots(RandomLM(lm), _shape(todo, len(todo)), guidance)
        slots.admit(dict(enumerate(todo)))
        slots.step(16)  # uncaptured: takes memory that stays
        addresses = {name: id(one) for name, one in vars(slots).items() if isinstance(one, torch.Tensor)}
        for name in ("tensor", "as_tensor", "from_numpy"):  # values of the host, seen by no dispatcher
            monkeypatch.setattr(torch, name, None)
        with Capture() as capture:
            slots.step(16)
        monkeypatch.undo()
    assert capture.count > 50
    assert addresses == {name: id(one) for name, one in vars(slots).items() if isinstance(one, torch.Tensor)}


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda x: x.add_(torch.arange(3.0)),
        lambda x: x.add_(torch.tensor([1.0, 2.0, 3.0]).to(x.device)),
        lambda x: x.masked_fill_(x > 0, 1)[x > 0],
        lambda x: x.add_(x.sum().item()),
        lambda x: x.cpu(),
    ],
)
def test_what_is_forbidden_is_found(forbidden):
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), Capture():
        forbidden(torch.empty(3, device="meta"))
