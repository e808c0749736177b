"""Activation checkpointing: a decoder layer keeps its input alone, and is run again for its backward.

Costs a layer's forward once more, which with a frozen base is half as much again of its forward and backward.
The random state is put back for it, so dropout and all results are the same.
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from mmpt.model.layers import decoder_layers
from mmpt.store.errors import UserError

_CHECKPOINT = partial(checkpoint, use_reentrant=False)  # one object: a layer is compiled for the one that it saw


def checkpoint_layers(causal: nn.Module, count: bool | int) -> int:
    """Checkpoint the first `count` decoder layers of a causal LM, True: all, and no others; returns how many.

    The first ones, since what the last ones keep is free again when the first are computed anew. It holds in
    training mode only.

    Raises:
        UserError: layers that transformers cannot checkpoint.
    """
    layers = [one for one in decoder_layers(causal) if isinstance(one, GradientCheckpointingLayer)]
    if count and not layers:
        raise UserError(
            "this architecture has no activation checkpointing",
            where="train.activation_checkpointing",
            found=type(causal).__name__,
            fix="leave the key out, and lower train.micro_rows or train.row_len",
        )
    wanted = layers_of(count, len(layers))
    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = index < wanted
        layer._gradient_checkpointing_func = _CHECKPOINT
    return wanted


def layers_of(count: bool | int, layers: int) -> int:
    """How many of the layers `train.activation_checkpointing` means."""
    return layers if count is True else min(int(count), layers)
