"""Models without storage (torch's device "meta"), run as they would run on CUDA: peak memory without a GPU.

    with as_on_cuda(), PeakMemory() as memory:
        model = meta_model(...)        # counted: its weights
        ...                            # counted: activations, gradients, optimizer states, caches
    memory.peak                        # bytes of tensors that were alive at the same time

What a kernel allocates inside itself is not seen: see SCRATCH.
"""

from __future__ import annotations

import contextlib
import importlib
import weakref
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import masking_utils

from mmpt.model import attention, norms
from mmpt.model.multimodal import MultimodalLM
from mmpt.store.errors import UserError
from mmpt.tokens.space import TokenSpace

ALIGNED = 512  # bytes: CUDA's caching allocator rounds every block up to a multiple
LOSS_CHUNK = 896 << 20  # bytes of logits that the loss holds at once on CUDA (csrc/cross_entropy_chunks.h)
# Of kernels: the loss's chunk with the chunk's rows of hidden states and their gradients, and cuBLAS' workspaces.
SCRATCH = LOSS_CHUNK + (64 << 20) + (32 << 20)


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of tensors' storages that are alive, each from the operator that made it to its end.

    device_type: of the tensors that count.
    """

    def __init__(self, device_type: str = "meta") -> None:
        super().__init__()
        self.device_type = device_type
        self.alive = self.peak = 0
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.device.type == self.device_type:
                self._count(tensor)
        return out

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        size = -(-storage.nbytes() // ALIGNED) * ALIGNED
        self._known[storage] = True
        weakref.finalize(storage, self._end, size)
        self.alive += size
        self.peak = max(self.peak, self.alive)

    def _end(self, size: int) -> None:
        self.alive -= size

    def restart(self) -> None:
        """Forget the peak: it begins anew at what is alive."""
        self.peak = self.alive


def meta_causal(config: Mapping[str, Any], dtype: torch.dtype) -> torch.nn.Module:
    """A causal LM of transformers' configuration (a mapping with model_type), in evaluation mode, without storage."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {key: value for key, value in config.items() if key not in ("architectures", "quantization_config")}
    if "model_type" not in fields:
        raise UserError("not a model's configuration", where="config.json", expected="model_type")
    fields |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    made = AutoConfig.for_model(fields.pop("model_type"), **fields)
    made._attn_implementation = "sdpa"
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(made, dtype=dtype).eval()


def meta_model(
    config: Mapping[str, Any], space: TokenSpace, lora: Mapping[str, Any], dtype: torch.dtype, layer_norm: bool = False
) -> MultimodalLM:
    """`MultimodalLM.from_base` of such a configuration."""
    return MultimodalLM.around(meta_causal(config, dtype), space, lora, seed=0, layer_norm=layer_norm)


@contextlib.contextmanager
def as_on_cuda() -> Iterator[None]:
    """Inside, "meta" is taken for a device with CUDA's kernels of attention, RMSNorm and AdamW."""
    adam = importlib.import_module("torch.optim.adam")
    with (
        mock.patch.object(attention, "_has_kernel", lambda device: True),
        mock.patch.object(norms, "on_kernel", lambda stream: True),
        mock.patch.object(norms, "one_kernel", _norm),
        mock.patch.object(adam, "_device_dtype_check_for_fused", lambda *_, **__: None),
        mock.patch.object(F, "scaled_dot_product_attention", _attention),
        # It reads position_ids. Only rows of one sequence each get here without a mask.
        mock.patch.object(masking_utils, "find_packed_sequence_indices", lambda position_ids: None),
        # Both read the mask: a batch of plain transformers is padded, and so keeps it.
        mock.patch.object(masking_utils, "fast_all", lambda mask: False, create=True),
        mock.patch.object(masking_utils, "_ignore_bidirectional_mask_sdpa", lambda mask, *_, **__: mask is None),
    ):
        yield


def _attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """As CUDA computes it: flash attention without a mask, else the memory-efficient kernel; no matrix of scores.
    On "meta" itself torch writes the matrix.
    """
    if attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )[0]
    bias = attn_mask if attn_mask.is_floating_point() else torch.zeros_like(attn_mask, dtype=query.dtype)
    if query.shape[1] != key.shape[1]:
        key, value = (one.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for one in (key, value))
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )[0]


@torch.library.custom_op("mmpt_meta::norm", mutates_args=())
def _norm(stream: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """One operator, as on CUDA; elsewhere torch takes it apart. Its backward has the kernel's costs and no numbers."""
    return F.rms_norm(stream, (stream.shape[-1],), weight, epsilon)


@torch.library.custom_op("mmpt_meta::norm_backward", mutates_args=())
def _norm_backward(grad: Tensor, stream: Tensor) -> Tensor:
    raise NotImplementedError


_norm.register_fake(lambda stream, weight, epsilon: torch.empty_like(stream))
_norm_backward.register_fake(lambda grad, stream: torch.empty_like(stream))
_norm.register_autograd(
    lambda ctx, grad: (torch.ops.mmpt_meta.norm_backward(grad, *ctx.saved_tensors), None, None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)
