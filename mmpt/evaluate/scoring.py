"""Teacher-forced losses of given targets after given prompts, token by token, over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from mmpt.ops import linear_cross_entropy

TOKENS_PER_BATCH = 8192


@torch.no_grad()
def target_losses(
    model,
    prompts: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    *,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """-log p of every target token, nats, float64 [len(target)], for each pair in input order.

    The softmax runs over all columns of the head. Sequences are right-padded by length; with causal attention
    a padding column is invisible to what precedes it, so padding changes nothing.
    """
    lengths = [len(prompt) + len(target) for prompt, target in zip(prompts, targets, strict=True)]
    order = np.argsort(lengths, kind="stable")
    losses: dict[int, np.ndarray] = {}
    for chosen in _batches(order, lengths, tokens_per_batch):
        for i, row in zip(
            chosen, _batch_losses(model, [prompts[i] for i in chosen], [targets[i] for i in chosen])
        ):
            losses[int(i)] = row
        if progress is not None:
            progress(len(losses), len(lengths))
    return [losses[i] for i in range(len(lengths))]


def _batches(order: np.ndarray, lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Runs of `order` (ascending lengths), each within `tokens` when padded; one long item runs alone."""
    runs: list[list[int]] = []
    for i in order:
        if runs and (len(runs[-1]) + 1) * lengths[i] <= tokens:
            runs[-1].append(int(i))
        else:
            runs.append([int(i)])
    return runs


def _batch_losses(model, prompts, targets) -> list[np.ndarray]:
    weight_base, weight_new = model.head()
    device = weight_base.device
    width = max(len(p) + len(t) for p, t in zip(prompts, targets, strict=True))
    ids = np.zeros((len(prompts), width), np.int64)
    labels = np.full((len(prompts), width), -100, np.int64)  # labels[i, j]: what position j predicts
    for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        whole = np.concatenate([prompt, target])
        ids[row, : len(whole)] = whole
        labels[row, len(prompt) - 1 : len(whole) - 1] = target
    position_ids = torch.arange(width, device=device).expand(len(prompts), width)
    hidden = model.hidden(torch.as_tensor(ids, device=device), position_ids)
    wanted = torch.as_tensor(labels, device=device)
    picked = wanted >= 0
    loss = linear_cross_entropy(hidden[picked], wanted[picked], weight_base, weight_new, reduction="none")
    flat = loss.double().cpu().numpy()
    return np.split(flat, np.cumsum([len(target) for target in targets])[:-1])


def item_means(losses: Sequence[np.ndarray]) -> np.ndarray:
    """Mean loss of each item, float64 [n]: every item counts the same, however long."""
    return np.array([row.mean() for row in losses])
