"""Learning rates by step, and the optimizer that uses them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from mmpt.model.multimodal import MultimodalLM
from mmpt.train.settings import TrainSettings


def rate(step: int, settings: TrainSettings) -> float:
    """Share of the peak rate at a step, from 0: linear rise, then a cosine down to min_lr_ratio at the last
    step.
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - 1 - settings.warmup_steps)
    floor = settings.min_lr_ratio
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def optimizer_of(model: MultimodalLM, settings: TrainSettings) -> torch.optim.AdamW:
    """The optimizer that a run of these settings trains the model with."""
    return make_optimizer(model, settings.lr, settings.betas, settings.weight_decay)


def make_optimizer(
    model: MultimodalLM, lr: Mapping[str, float], betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over every parameter that asks for a gradient, one group a learning rate; all state is fp32.

    lr: by group name: lora, embed, head, layer_norm; a group that it does not name has the rate of lora. Each group
    carries `name` and its peak `peak`.
    """
    groups = []
    for name, members in model.trainable_groups().items():
        wanted = [parameter for _, parameter in members if parameter.requires_grad]
        if wanted:
            peak = lr.get(name, lr["lora"])
            groups.append({"params": wanted, "lr": peak, "peak": peak, "name": name})
    return torch.optim.AdamW(groups, betas=betas, weight_decay=weight_decay, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> dict[str, float]:
    """Set each group's rate to `share` of its peak; returns rates by group name."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
    return {group["name"]: group["lr"] for group in optimizer.param_groups}
