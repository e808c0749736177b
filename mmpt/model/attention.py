"""Attention over packed sequences without padding: one stream of tokens, each sequence sees only itself.

    hidden(ids [1, N], lengths) --decoder's keyword--> attention(q, k, v [1, heads, N, D], packed=Packed)
        CUDA, bf16/fp16   varlen_attn: all sequences in one kernel
        elsewhere         scaled_dot_product_attention, causal, a call for each run of equal lengths

No mask is made, so nothing of size N x N exists and no work is done for pairs that may not meet. The function
is registered with transformers under `NAME`; a call without `packed` is transformers' own "sdpa".

torch.compile sees one operator with two tensors of any length: varlen_attn is one, and where it is not used
`mmpt_packed::attention` does the same calls as the eager way, out of the compiler's sight. How a stream is cut is
data to a graph, nothing that it would be compiled for.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "mmpt_packed"
FLASH_WIDTH = 256  # the widest head that the kernel takes


def cached(model: nn.Module, cache: Any) -> dict[str, Any]:
    """The keyword arguments that give a model of transformers a cache, or (None) keep it from making one."""
    return {"use_cache": False} if cache is None else {_cache_name(type(model).forward): cache, "use_cache": True}


@functools.cache
def _cache_name(forward: Callable[..., Any]) -> str:
    """transformers 5.24 calls `past_key_values` `cache`, and warns of the older name at every call."""
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


@dataclass(frozen=True)
class Packed:
    """How a stream is cut. Equal lengths that lie side by side are one call.

    bounds: int32 [sequences + 1] on the host, where each begins and the last ends. offsets: the same on the device,
    None where no kernel asks for it; longest: the maximum length that the kernel is given, at least that of the longest
    sequence.
    shares_heads: whether the kernel takes fewer heads of keys than of queries.
    """

    bounds: Tensor
    offsets: Tensor | None = None
    longest: int = 0
    shares_heads: bool = False

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Packed:
        """The copy of the offsets to a device does not wait for it."""
        bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        if not _has_kernel(device):
            return cls(bounds)
        pinned = bounds.pin_memory() if device.type == "cuda" else bounds
        # It sizes the kernel's grid alone. A power of two: few values, if a compiled graph should hold it fast.
        longest = 1 << (int(max(lengths)) - 1).bit_length()
        return cls(bounds, pinned.to(device, non_blocking=True), longest, _shares_heads())


def stream_options(lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """The decoder's keywords for a stream [1, N] of sequences.

    transformers looks for packed sequences itself where no mask is given, and waits for the device; an empty
    mask stops it.
    """
    mask = torch.empty((1, 1, 0, 0), dtype=torch.bool, device=device)
    return {"packed": Packed.of(lengths, device), "attention_mask": mask}


def can_pack(causal: nn.Module, implementations: Sequence[str] = ("sdpa", NAME)) -> bool:
    """Whether a causal LM's attention is this one: causal over everything before, through transformers'
    interface. Sliding windows, chunks and layers without attention are not.
    """
    config = causal.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        getattr(causal, "_supports_attention_backend", False)
        and config._attn_implementation in implementations
        and kinds == {"full_attention"}
        and not getattr(config, "sliding_window", None)
    )


def obstacle_to_compiling(config: Any, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why attention over a packed stream in training is not one operator for torch.compile; None where it is.

    config: the model's. dtype: of its layers' matrices.
    """
    if dropout := getattr(config, "attention_dropout", None):
        return f"attention_dropout {dropout}"
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if device.type == "cuda" and not (_has_kernel(device) and _kernel_takes(dtype, width)):
        # The operator below calls a CPU's kernels.
        return f"{dtype} and heads of {width} numbers, which the kernel for packed streams does not take on this device"
    return None


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: Packed | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: q [B, heads, L, D], k and v [B, kv heads, L, D] -> [B, L, heads, D].

    packed: B is 1 and the L tokens are its sequences; the mask is not looked at.
    """
    if packed is None and query.shape[2] == 1 and attention_mask is not None and attention_mask.shape[1] == 1:
        return _one_query(query, key, value, attention_mask, dropout, scaling), None
    if packed is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
    if packed.offsets is not None and not dropout and _kernel_takes(query.dtype, query.shape[-1]):
        return _one_kernel(query, key, value, packed, scaling), None
    if torch.compiler.is_compiling() and not dropout:
        return torch.ops.mmpt_packed.attention(query, key, value, packed.bounds, scaling)[0], None
    return _by_length(query, key, value, packed.bounds, dropout, scaling), None


def _one_query(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float, scaling: float | None
) -> Tensor:
    """A decoding step: query heads that share keys are so many queries of one head.

    transformers before 5.23 repeats keys and values where there is a mask: with 4 query heads to one of keys, that
    writes and reads the whole cache four times over at each step.
    """
    heads, width = key.shape[1], query.shape[-1]
    shared = F.scaled_dot_product_attention(
        query.unflatten(1, (heads, -1)).flatten(2, 3), key, value, attn_mask=mask, dropout_p=dropout, scale=scaling
    )
    return shared.reshape(len(query), 1, -1, width)


def _by_length(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, dropout: float, scaling: float | None
) -> Tensor:
    """Each run of sequences of one length is a batch. A split has one backward, slices one each."""
    out = []
    for q, k, v in _runs(bounds, query, key, value):
        same = F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        out.append(same.transpose(1, 2).flatten(0, 1))
    return torch.cat(out)[None]


def _runs(bounds: Tensor, *streams: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """For each run of sequences of one length, of each stream [1, heads, N, ..]: [sequences, heads, length, ..]."""
    lengths = [after - before for before, after in pairwise(bounds.tolist())]
    runs = [(length, len(list(same))) for length, same in groupby(lengths)]
    tokens = [length * count for length, count in runs]
    split = [one[0].split(tokens, 1) for one in streams]
    for (length, count), *parts in zip(runs, *split, strict=True):
        yield tuple(part.unflatten(1, (count, length)).transpose(0, 1) for part in parts)


def _has_kernel(device: torch.device) -> bool:
    return (
        device.type == "cuda"
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def _kernel_takes(dtype: torch.dtype, width: int) -> bool:
    return dtype in (torch.bfloat16, torch.float16) and width <= FLASH_WIDTH and width % 8 == 0


def _one_kernel(query: Tensor, key: Tensor, value: Tensor, packed: Packed, scaling: float | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # 1.3 s, which a CPU need not spend

    groups = query.shape[1] // key.shape[1]
    options: dict[str, Any] = {}
    if groups > 1 and packed.shares_heads:
        options["enable_gqa"] = True
    elif groups > 1:
        key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
    q, k, v = (one[0].transpose(0, 1) for one in (query, key, value))
    bounds, longest = packed.offsets, packed.longest
    assert bounds is not None  # a stream has them
    causal = (-1, 0)  # everything to the left, nothing to the right
    out = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=causal, **options)
    assert isinstance(out, Tensor)  # and not also the log-sum-exp, which nobody asked for
    return out[None]


@functools.cache
def _shares_heads() -> bool:
    """Whether the kernel takes fewer heads of keys than of queries: torch 2.12 on."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


# ---- where there is no such kernel: one operator for the compiler --------------------------------------------------


@torch.library.custom_op("mmpt_packed::attention", mutates_args=())
def _packed(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
    """(out [1, N, heads, D], log-sum-exp [1, N, heads]) of `_by_length`, by the kernels that it comes to on a CPU."""
    out, sums = [], []
    for q, k, v in _runs(bounds, query, key, value):
        one, sum_ = _FLASH(q, k, v, 0.0, True, attn_mask=None, scale=scale)
        out.append(one.transpose(1, 2).flatten(0, 1))
        sums.append(sum_.transpose(1, 2).flatten(0, 1))
    return torch.cat(out)[None], torch.cat(sums)[None]


@torch.library.custom_op("mmpt_packed::attention_backward", mutates_args=())
def _packed_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    bounds: Tensor,
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients [1, N, heads, D] of query, key and value."""
    found: tuple[list[Tensor], ...] = ([], [], [])
    grad, out, sums = (one.transpose(1, 2) for one in (grad, out, sums))
    for g, q, k, v, o, s in _runs(bounds, grad, query, key, value, out, sums):
        grads = _FLASH_BACKWARD(g, q, k, v, o, s, 0.0, True, attn_mask=None, scale=scale)
        for part, one in zip(found, grads, strict=True):
            part.append(one.transpose(1, 2).flatten(0, 1))
    d_query, d_key, d_value = (torch.cat(part)[None] for part in found)
    return d_query, d_key, d_value


_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@_packed.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
    _, heads, tokens, width = query.shape
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    return query.new_empty(1, tokens, heads, width), query.new_empty(1, tokens, heads, dtype=wide)


@_packed_backward.register_fake
def _(grad, query, key, value, out, sums, bounds, scale):
    laid = torch.contiguous_format
    return tuple(torch.empty_like(one.transpose(1, 2), memory_format=laid) for one in (query, key, value))


def _keep(ctx, inputs, output):
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _grads(ctx, grad, _):
    query, key, value, bounds, out, sums = ctx.saved_tensors
    found = torch.ops.mmpt_packed.attention_backward(grad, query, key, value, out, sums, bounds, ctx.scale)
    return (*(one.transpose(1, 2) for one in found), None, None)


_packed.register_autograd(_grads, setup_context=_keep)
AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
