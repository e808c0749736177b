"""Memory counted without storage: what is alive, and the same numbers as a real model's tensors."""

import copy
import importlib

import pytest
import torch
from torch.nn import functional as F

from mmpt.evaluate.trainable import probe_step
from mmpt.model import meta
from mmpt.model.meta import ALIGNED, PeakMemory, as_on_cuda, meta_causal, meta_model
from mmpt.model.multimodal import MultimodalLM
from mmpt.ops import extension
from mmpt.store.errors import UserError
from mmpt.train.schedule import make_optimizer
from tests.model.tiny_model import LORA, small_space

CONFIG = {
    "model_type": "qwen3",
    "vocab_size": 50,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "tie_word_embeddings": False,
}
RATES = {"lora": 1e-3, "embed": 1e-3, "head": 1e-3}


def test_views_count_once_and_what_is_gone_not_at_all():
    with PeakMemory() as memory:
        one = torch.empty(1000, 128, device="meta")
        view = one[3:].view(-1, 4)
        assert memory.alive == one.nbytes and view.nbytes < one.nbytes
        two = one + one
        del two
        assert memory.alive == one.nbytes and memory.peak == 2 * one.nbytes
        memory.restart()
        assert memory.peak == one.nbytes
        torch.empty(1, device="meta")
        assert memory.peak == one.nbytes + ALIGNED


def test_what_autograd_keeps_counts_until_the_backward():
    with PeakMemory() as memory:
        x = torch.empty(64, 64, device="meta", requires_grad=True)
        loss = x.exp().sum()
        assert memory.alive == 2 * x.nbytes + ALIGNED  # x, exp(x), the sum
        loss.backward()
        del loss
        assert memory.alive == 2 * x.nbytes  # x and its gradient


def models():
    """The same model with storage and without."""
    torch.manual_seed(0)
    without = meta_model(CONFIG, small_space(), LORA, torch.float32)
    config = copy.deepcopy(without.config)
    config._attn_implementation = "sdpa"
    with torch.device("cpu"):
        real = type(without.lm.get_base_model())(config).eval()
    return without, MultimodalLM.around(real, small_space(), LORA, seed=0)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_step_without_storage_counts_what_a_real_one_holds(checkpointed, monkeypatch):
    """Gate A2's step, with the optimizer's moments."""
    adam = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_, **__: None)
    peaks = {}
    for model in models():
        device = model.device.type
        model.checkpoint_layers(checkpointed)
        with monkeypatch.context() as patch, PeakMemory(device) as memory:
            if device == "meta":  # torch's own way there writes the matrix of scores
                patch.setattr(F, "scaled_dot_product_attention", meta._attention)
            optimizer = make_optimizer(model, RATES, (0.9, 0.95), 0.0)
            probe_step(model, optimizer)
            probe_step(model, optimizer)
        peaks[device] = memory.peak
    assert peaks["meta"] == pytest.approx(peaks["cpu"], rel=0.05) and peaks["cpu"] > 1 << 19


def test_attention_as_on_cuda_holds_no_matrix_of_scores():
    heads = torch.empty(2, 4, 1000, 16, device="meta", dtype=torch.bfloat16)
    mask = torch.empty(2, 1, 1000, 1000, device="meta", dtype=torch.bfloat16)
    for given in (None, mask):
        with as_on_cuda(), PeakMemory() as memory:
            out = F.scaled_dot_product_attention(heads, heads, heads, attn_mask=given, is_causal=given is None)
            assert out.shape == heads.shape
        assert memory.peak < 4 * heads.nbytes


def test_a_configuration_needs_its_kind():
    with pytest.raises(UserError, match="not a model's configuration"):
        meta_causal({"hidden_size": 8}, torch.float32)


def test_scratch_holds_a_chunk_of_the_loss():
    written = (extension.SOURCES / "cross_entropy_chunks.h").read_text()
    assert f"kChunkBytes = int64_t({meta.LOSS_CHUNK >> 20}) << 20;" in written and meta.SCRATCH > meta.LOSS_CHUNK
