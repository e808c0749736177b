"""The frozen base split over the ranks (FSDP2): each keeps 1/W of every decoder layer and gathers the rest for its use.

    layer's forward or backward   all-gather its base weights, use them, free them
    LoRA, new rows, norms         whole on every rank: small, and Ranks.sum_ adds up their gradients
    embedding and head matrix     whole on every rank: the loss reads the head in slices of its own choosing

A frozen weight has no gradient, so nothing is scattered back, and a checkpoint holds nothing that is split.
For Qwen3-8B in bf16 the layers are 13.9 GB / W a rank; embedding and head stay at 1.24 GB each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from mmpt.model.layers import decoder_layers
from mmpt.model.loading import put_back
from mmpt.model.multimodal import MultimodalLM
from mmpt.train.distributed import Ranks, bits


def shard_base(model: MultimodalLM, ranks: Ranks, device: str) -> None:
    """Split the base's decoder layers over the ranks, in place, and bring the rest to `device`.

    A layer comes to the device, is split, and only then comes the next: neither a device nor the host ever holds
    them all. Matrices that were left in their files (`layers_aside` of `from_base`) are read then.

    Raises:
        UserError: the ranks do not hold the same base.
    """
    aside: dict[Any, Tensor] = model.aside
    base = {name: aside.get(parameter, parameter) for name, parameter in model.frozen().items()}
    ranks.require_same({"base": bits(base)})
    del base
    mesh = init_device_mesh(device.partition(":")[0], (ranks.world,))
    layers = decoder_layers(model.lm.get_base_model())
    # No name for the layers' parameters: it would keep each of them whole until all are split.
    kept = set(model.parameters()) - {one for layer in layers for one in layer.parameters()}
    kept |= set(model.adapter_parameters().values())
    for parameter in kept:
        parameter.data = parameter.data.to(device)
    for layer in layers:
        put_back(layer, aside, device)
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=kept)
    fully_shard(model.decoder, mesh=mesh, ignored_params=kept)  # the root: it fetches a layer ahead
    model.to(device)  # buffers


def sharded(model: MultimodalLM) -> bool:
    """Whether the base is split: then every forward and backward is one of all ranks together."""
    return isinstance(model.decoder, FSDPModule)


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those that are not split."""
    return {name: tensor for name, tensor in tensors.items() if not isinstance(tensor, DTensor)}
