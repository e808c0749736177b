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
            chosen, _batch_losses(model, [prompts[i] for i in chosen], [targets[i] for i in chosen]), strict=True
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
    ids, labels = laid_out(prompts, targets)
    flat = batch_nll(model, ids, labels).double().cpu().numpy()
    return np.split(flat, np.cumsum([len(target) for target in targets])[:-1])


def laid_out(prompts: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(ids, labels) int64 [n, width]: right-padded rows; labels[i, j] is what position j predicts, -100 for nothing."""
    width = max(len(p) + len(t) for p, t in zip(prompts, targets, strict=True))
    ids = np.zeros((len(prompts), width), np.int64)
    labels = np.full((len(prompts), width), -100, np.int64)
    for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        whole = np.concatenate([prompt, target])
        ids[row, : len(whole)] = whole
        labels[row, len(prompt) - 1 : len(whole) - 1] = target
    return ids, labels


@torch.no_grad()
def batch_nll(model, ids: np.ndarray, labels: np.ndarray) -> torch.Tensor:
    """fp32 [targets] on the model's device: -log p of each label of `laid_out`, row by row."""
    device = model.head()[0].device
    position_ids = torch.arange(ids.shape[1], device=device).expand(ids.shape)
    hidden = model.hidden(torch.as_tensor(ids, device=device), position_ids, packed=False)
    at = torch.from_numpy(np.flatnonzero(labels.ravel() >= 0)).to(device)
    wanted = torch.as_tensor(labels.ravel(), device=device)[at]
    return linear_cross_entropy(hidden.flatten(0, 1)[at], wanted, *model.head(), reduction="none")


def item_means(losses: Sequence[np.ndarray]) -> np.ndarray:
    """Mean loss of each item, float64 [n]: every item counts the same, however long."""
    return np.array([row.mean() for row in losses])
