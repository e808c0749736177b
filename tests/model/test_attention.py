"""Attention over a stream of sequences: each sees only itself; the kernel is asked what is meant."""

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from mmpt.model import attention as attention_module
from mmpt.model.attention import Packed, attention
from mmpt.model.multimodal import MultimodalLM
from tests.model.tiny_model import LORA, TEXT, small_model, small_space

LENGTHS = (9, 5, 5, 2, 1)
SHAPE = dict(
    vocab_size=TEXT,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    bos_token_id=None,
    eos_token_id=None,
    tie_word_embeddings=True,
)


CPU = torch.device("cpu")
PACKED = Packed.of(LENGTHS, CPU)


def stream(seed=2, lengths=LENGTHS):
    """(ids, position_ids) [1, N]."""
    ids = torch.randint(0, 90, (1, sum(lengths)), generator=torch.Generator().manual_seed(seed))
    return ids, torch.cat([torch.arange(n) for n in lengths])[None]


def cuts(lengths=LENGTHS):
    ends = torch.tensor(lengths).cumsum(0).tolist()
    return [slice(end - n, end) for end, n in zip(ends, lengths, strict=True)]


def test_a_stream_equals_each_sequence_alone_gradients_too(tmp_path):
    model = small_model(tmp_path / "base")
    ids, positions = stream()
    weight = torch.randn(1, sum(LENGTHS), 16, generator=torch.Generator().manual_seed(9))
    together = model.hidden(ids, positions, lengths=LENGTHS)
    (together * weight).sum().backward()
    grads = {key: p.grad.clone() for key, p in model.adapter_parameters().items()}
    model.zero_grad()
    for cut in cuts():
        alone = model.hidden(ids[:, cut])
        torch.testing.assert_close(together[:, cut], alone, rtol=1e-5, atol=2e-6)
        (alone * weight[:, cut]).sum().backward()
    for key, parameter in model.adapter_parameters().items():
        torch.testing.assert_close(grads[key], parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", ["other tokens", "nan"])
def test_a_change_in_one_sequence_changes_no_bit_of_another(tmp_path, value):
    model = small_model(tmp_path / "base")
    ids, positions = stream()
    changed = cuts()[1]
    results = []
    for other in (False, True):
        embedded = model.embedding(ids).detach()
        if other:
            embedded[:, changed] = torch.nan if value == "nan" else embedded[:, changed].flip(1) * 3
        embedded.requires_grad_()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model.embedding, "forward", lambda ids, embedded=embedded: embedded)
            hidden = model.hidden(ids, positions, lengths=LENGTHS)
        kept = [hidden[:, cut] for cut in cuts() if cut != changed]
        torch.cat(kept, 1).square().sum().backward()
        grad = torch.cat([embedded.grad[:, cut] for cut in cuts() if cut != changed], 1)
        results.append((torch.cat(kept, 1).detach(), grad, hidden[:, changed].detach()))
    (same, grad, mine), (again, grad_again, others) = results
    assert torch.equal(same, again) and torch.equal(grad, grad_again) and not torch.equal(mine, others)


def queries(dtype=torch.float32, heads=4, kv_heads=2):
    generator = torch.Generator().manual_seed(3)
    shapes = ((1, n, sum(LENGTHS), 8) for n in (heads, kv_heads, kv_heads))
    return [torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True) for shape in shapes]


def plain(q, k, v, scale, lengths=LENGTHS):
    """softmax(q k / sqrt d) v with a mask, from its definition."""
    groups = q.shape[1] // k.shape[1]
    k, v = (one.repeat_interleave(groups, 1) for one in (k, v))
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    allowed = (owner[:, None] == owner) & torch.ones(len(owner), len(owner)).tril().bool()
    weights = (q @ k.transpose(2, 3) * scale).masked_fill(~allowed, -torch.inf).softmax(-1)
    return (weights @ v).transpose(1, 2)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_it_is_softmax_over_what_stands_before_in_the_same_sequence(kv_heads):
    q, k, v = queries(kv_heads=kv_heads)
    out, _ = attention(torch.nn.Module(), q, k, v, None, packed=PACKED, scaling=0.3)
    expected = plain(q, k, v, 0.3)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    noise = torch.randn_like(out)
    grads = [torch.autograd.grad((one * noise).sum(), (q, k, v)) for one in (out, expected)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa=False):
    """What varlen_attn promises, in plain torch."""
    assert query.dim() == key.dim() == 3 and cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert enable_gqa or query.shape[1] == key.shape[1]
    assert window_size == (-1, 0) and max_q == max_k >= int(cu_seq_q.diff().max())
    out = []
    for a, b in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        q, k, v = (one[a:b].transpose(0, 1)[None] for one in (query, key, value))
        one = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=enable_gqa)
        out.append(one[0].transpose(0, 1))
    return torch.cat(out)


def older_kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size):
    """Of torch 2.11: as many heads of keys as of queries."""
    return kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size)


@pytest.mark.parametrize("of", [kernel, older_kernel])
def test_the_kernel_is_asked_for_the_same_thing(monkeypatch, of):
    from torch.nn.attention import varlen

    q, k, v = queries(torch.bfloat16)
    expected, _ = attention(torch.nn.Module(), q, k, v, None, packed=PACKED, scaling=0.3)
    monkeypatch.setattr(attention_module, "_has_kernel", lambda device: True)
    monkeypatch.setattr(varlen, "varlen_attn", of)
    attention_module._shares_heads.cache_clear()
    packed = Packed.of(LENGTHS, CPU)
    attention_module._shares_heads.cache_clear()
    assert packed.longest == 16 and torch.equal(packed.offsets, PACKED.bounds)
    out, _ = attention(torch.nn.Module(), q, k, v, None, packed=packed, scaling=0.3)
    torch.testing.assert_close(out, expected, rtol=1e-2, atol=1e-2)


def test_the_installed_kernel_has_these_arguments():
    import inspect

    from torch.nn.attention.varlen import varlen_attn

    names = inspect.signature(varlen_attn).parameters
    assert list(names)[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
    assert {"scale", "window_size"} <= set(names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compilers_operator_gives_the_same_bits_and_is_well_formed(dtype):
    q, k, v = queries(dtype)
    expected, _ = attention(torch.nn.Module(), q, k, v, None, packed=PACKED, scaling=0.3)
    out = torch.ops.mmpt_packed.attention(q, k, v, PACKED.bounds, 0.3)[0]
    noise = torch.randn(expected.shape).to(dtype)
    grads = [torch.autograd.grad(one, (q, k, v), noise) for one in (out, expected)]
    assert torch.equal(out, expected) and all(map(torch.equal, *grads))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.mmpt_packed.attention, (q, k, v, PACKED.bounds, 0.3), test_utils=checks)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_on_cuda_it_is_the_same_and_lengths_cross_without_waiting(dtype):
    lengths = (300, 300, 77, 1)
    generator = torch.Generator().manual_seed(3)
    q, k, v = (
        torch.randn(1, heads, sum(lengths), 64, generator=generator).to("cuda", dtype).requires_grad_()
        for heads in (8, 2, 2)
    )
    out, _ = attention(torch.nn.Module(), q, k, v, None, packed=Packed.of(lengths, q.device), scaling=0.125)
    exact = [one.detach().double().cpu().requires_grad_() for one in (q, k, v)]
    expected = plain(*exact, 0.125, lengths)
    limits = dict(rtol=2e-2, atol=2e-2) if dtype == torch.bfloat16 else dict(rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.double().cpu(), expected, **limits)
    noise = torch.randn_like(expected)
    grads = torch.autograd.grad((out * noise.to(out)).sum(), (q, k, v))
    for ours, theirs in zip(grads, torch.autograd.grad((expected * noise).sum(), exact), strict=True):
        torch.testing.assert_close(ours.double().cpu(), theirs, **limits)


def test_without_lengths_it_is_transformers_own():
    q, k, v = queries()
    module = torch.nn.Module()
    module.num_key_value_groups = 2
    ours, _ = attention(module, q, k, v, None, scaling=0.3)
    theirs, _ = attention_module.sdpa_attention_forward(module, q, k, v, None, scaling=0.3)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind, packs", [("llama", True), ("mistral", False), ("qwen3 with windows", False)])
def test_only_plain_causal_attention_takes_a_stream(tmp_path, kind, packs):
    """And the others go on as before: rows, and no token sees another sequence or past its window."""
    if kind == "llama":
        causal = LlamaForCausalLM(LlamaConfig(**SHAPE))
    elif kind == "mistral":
        causal = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4))
    else:
        windows = dict(use_sliding_window=True, sliding_window=4, max_window_layers=1)
        causal = Qwen3ForCausalLM(Qwen3Config(**SHAPE, **windows))
    causal.save_pretrained(tmp_path / "base")
    model = MultimodalLM.from_base(tmp_path / "base", small_space(), LORA, seed=1)
    assert model.packs == packs
    ids, positions = stream()
    with torch.no_grad():
        together = model.hidden(ids, positions, lengths=LENGTHS if packs else None)
        for cut in cuts():
            torch.testing.assert_close(together[:, cut], model.hidden(ids[:, cut]), rtol=1e-5, atol=2e-6)
