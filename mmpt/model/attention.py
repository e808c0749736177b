"""Attention over packed sequences without padding: one stream of tokens, each sequence sees only itself.

    hidden(ids [1, N], lengths) --decoder's keyword--> attention(q, k, v [1, heads, N, D], packed=Packed)
        CUDA, bf16/fp16   varlen_attn: all sequences in one kernel
        elsewhere         scaled_dot_product_attention, causal, a call for each run of equal lengths

No mask is made, so nothing of size N x N exists and no work is done for pairs that may not meet. The function
is registered with transformers under `NAME`; a call without `packed` is transformers' own "sdpa".
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "mmpt_packed"
FLASH_WIDTH = 256  # the widest head that the kernel takes


@dataclass(frozen=True)
class Packed:
    """How a stream is cut. Equal lengths that lie side by side are one call.

    lengths: tokens of each sequence, on the host. offsets: int32 [len(lengths) + 1] on the device, where each
    begins and the last ends; None where no kernel asks for it.
    """

    lengths: tuple[int, ...]
    offsets: Tensor | None

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Packed:
        """The copy of the offsets to a device does not wait for it."""
        lengths = tuple(int(length) for length in lengths)
        if device.type != "cuda":
            return cls(lengths, None)
        bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return cls(lengths, bounds.pin_memory().to(device, non_blocking=True))


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
    if _has_kernel(query) and not dropout:
        return _one_kernel(query, key, value, packed, scaling), None
    return _by_length(query, key, value, packed, dropout, scaling), None


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
    query: Tensor, key: Tensor, value: Tensor, packed: Packed, dropout: float, scaling: float | None
) -> Tensor:
    """Each run of sequences of one length is a batch. A split has one backward, slices one each."""
    runs = [(length, len(list(same))) for length, same in groupby(packed.lengths)]
    tokens = [length * count for length, count in runs]
    out = []
    split = [one[0].split(tokens, 1) for one in (query, key, value)]
    for (length, count), *parts in zip(runs, *split, strict=True):
        q, k, v = (part.unflatten(1, (count, length)).transpose(0, 1) for part in parts)
        same = F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        out.append(same.transpose(1, 2).flatten(0, 1))
    return torch.cat(out)[None]


def _has_kernel(query: Tensor) -> bool:
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] <= FLASH_WIDTH
        and query.shape[-1] % 8 == 0
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def _one_kernel(query: Tensor, key: Tensor, value: Tensor, packed: Packed, scaling: float | None) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    options: dict[str, Any] = {}
    if groups > 1 and _shares_heads():
        options["enable_gqa"] = True
    elif groups > 1:
        key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
    q, k, v = (one[0].transpose(0, 1) for one in (query, key, value))
    bounds, longest = packed.offsets, max(packed.lengths)
    causal = (-1, 0)  # everything to the left, nothing to the right
    out = _kernel()(q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=causal, **options)
    return out[None]


@functools.cache
def _kernel() -> Any:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


@functools.cache
def _shares_heads() -> bool:
    """Whether the kernel takes fewer heads of keys than of queries: torch 2.12 on."""
    return "enable_gqa" in inspect.signature(_kernel()).parameters


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
