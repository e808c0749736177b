"""A tiny Qwen3 for machines without weights: built from a few numbers, pretrained briefly on text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mmpt.ops import linear_cross_entropy
from mmpt.store.errors import UserError


@dataclass(frozen=True)
class Pretraining:
    """steps of tokens_per_step tokens in rows of row_len, AdamW at peak rate lr (linear warm-up, cosine to a
    tenth).
    """

    steps: int
    lr: float
    tokens_per_step: int
    row_len: int = 128
    warmup_share: float = 0.05
    weight_decay: float = 0.01


def build_tiny(config: Mapping[str, Any], vocab_size: int, seed: int) -> nn.Module:
    """A randomly initialised Qwen3 for causal language modelling.

    Args:
        config: fields of transformers' Qwen3Config (hidden_size, num_hidden_layers, ...).
        vocab_size: rows of its embedding: the tokenizer's size.

    Raises:
        UserError: a field that Qwen3 does not have, or values that do not fit together.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    known = Qwen3Config()
    for key in config:
        if not hasattr(known, key):
            raise UserError(
                f"unknown key {key!r}", where="base.config", expected="a field of transformers' Qwen3Config"
            )
    full = Qwen3Config(
        **{"max_position_embeddings": 8192, "use_sliding_window": False, **config, "vocab_size": vocab_size}
    )
    full.bos_token_id = full.eos_token_id = full.pad_token_id = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(full)


def pretrain(
    model: nn.Module,
    ids: np.ndarray,
    settings: Pretraining,
    *,
    seed: int,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> list[float]:
    """Train all weights to predict the next token of a text stream; returns the loss of each step.

    Args:
        ids: int [M], the text as one stream. Rows are windows of it from seeded random starts, without
            replacement inside an epoch.

    Raises:
        UserError: a stream shorter than one row.
    """
    rows_per_step = max(1, settings.tokens_per_step // settings.row_len)
    windows = _windows(ids, settings, rows_per_step, np.random.default_rng(seed))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=(0.9, 0.95), weight_decay=settings.weight_decay, fused=True
    )
    device, head = next(model.parameters()).device, model.get_output_embeddings().weight
    losses = []
    model.train()
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * _rate(step, settings)
        batch = torch.from_numpy(windows[step]).to(device)
        hidden = model.get_decoder()(input_ids=batch[:, :-1], use_cache=False).last_hidden_state
        loss = linear_cross_entropy(hidden.flatten(0, 1), batch[:, 1:].flatten(), head)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        losses.append(float(loss.detach()))
        on_step(step, losses[-1])
    model.eval()
    return losses


def _windows(ids: np.ndarray, settings: Pretraining, rows: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [steps, rows, row_len + 1]: cuts of the stream, shifted anew and shuffled in every epoch."""
    width, needed = settings.row_len + 1, settings.steps * rows
    if len(ids) < 2 * width:
        raise UserError(
            "not enough text to pretrain on",
            where="text_train.txt",
            found=f"{len(ids)} tokens",
            expected=f"at least {2 * width}",
            fix="raise text.train_sentences",
        )
    starts: list[np.ndarray] = []
    while sum(map(len, starts)) < needed:
        first = int(rng.integers(0, settings.row_len))
        starts.append(rng.permutation(np.arange(first, len(ids) - width + 1, settings.row_len)))
    chosen = np.concatenate(starts)[:needed]
    cut = np.asarray(ids, np.int64)[chosen[:, None] + np.arange(width)]
    return cut.reshape(settings.steps, rows, width)


def _rate(step: int, settings: Pretraining) -> float:
    warm = max(1, round(settings.warmup_share * settings.steps))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, settings.steps - warm)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))
