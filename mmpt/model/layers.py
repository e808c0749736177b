"""The decoder layers of a causal LM: what is checkpointed, split over ranks, compiled."""

from __future__ import annotations

from torch import nn


def decoder_layers(causal: nn.Module) -> list[nn.Module]:
    """The repeated blocks, first to last: the decoder's list of modules with most parameters; [] where it has none."""
    lists = [module for module in causal.get_decoder().modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=lambda one: sum(p.numel() for p in one.parameters()), default=()))
