"""A few real training steps on random ids, to compare the estimates of `doit fit` with."""

from __future__ import annotations

from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmpt.model.multimodal import MultimodalLM
from mmpt.model.vocabulary import SegmentedEmbedding
from mmpt.shards.fitting import REPLAY_TOKENS, Kept
from mmpt.shards.loader import Loader, make_loader
from mmpt.store.memory import status
from mmpt.store.tasks import EMIT_TASKS, TASKS
from mmpt.tokens.formats import OVERHEAD, Example, build, build_text
from mmpt.tokens.space import TokenSpace
from mmpt.train.footprint import ModelSizes, now
from mmpt.train.footprint import build as build_model
from mmpt.train.objective import backward
from mmpt.train.schedule import make_optimizer
from mmpt.train.settings import TrainSettings, step_options

EXAMPLES = 64  # different ones a kind


class RandomExamples:
    """Sequences of one task's lengths with random ids, as a loader's source."""

    identity = "random"

    def __init__(self, space: TokenSpace, task: str, kept: Kept | None, seed: int):
        self.space, self.task, self.has_prompt = space, task, task in EMIT_TASKS
        self.rng = np.random.default_rng(seed)
        if kept is None:
            self.lengths = np.full(EXAMPLES, REPLAY_TOKENS, np.int32)
            return
        spread = max(0.0, kept.longest - kept.mean)
        drawn = kept.mean + spread * self.rng.uniform(-1, 1, EXAMPLES)
        self.supervised = kept.supervised - 1
        self.lengths = np.maximum(drawn.round(), OVERHEAD + 2).astype(np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    def draw(self, index: int, empty_prompt: bool = False) -> Example:
        """One sequence; the part that is text or payload has its mean share."""
        length = int(self.lengths[index % len(self)])
        if self.task == "text":
            return build_text(self.space, self._ids("TEXT", length))
        body = length - OVERHEAD
        target = min(max(1, round(self.supervised)), body - 1)
        payload = target if self.has_prompt else body - target
        if self.task in ("t2a", "a2t"):
            frames = max(1, round(payload / self.space.stream.width))
            codes = np.stack([self.rng.integers(0, r.size, frames) for r in self.space.audio_rows])
            ids = self.space.audio_to_global(codes)
        else:
            ids = self._ids("IMAGE", payload)
        return build(self.space, self.task, self._ids("TEXT", max(1, body - payload)), ids)

    def _ids(self, segment: str, n: int) -> np.ndarray:
        bounds = self.space.ranges[segment]
        return self.rng.integers(bounds.start, bounds.stop, n)


def measure(
    shape: ModelSizes, data: Mapping[str, Any], kept: Mapping[str, Kept], device: str, steps: int
) -> dict[str, Any]:
    """Train `steps` steps after one that does not count, in a process of its own: memory once freed would
    not show.

    Returns:
        {"steps", "seconds_per_step": fastest, "tokens_per_second", "memory": peak bytes above "libraries",
        what the process holds before}.
    """
    arguments = (shape, data, kept, device, steps, torch.get_num_threads())
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, arguments)


def _measure(
    shape: ModelSizes, data: Mapping[str, Any], kept: Mapping[str, Kept], device: str, steps: int, threads: int
) -> dict[str, Any]:
    torch.set_num_threads(threads)
    before = status("VmRSS") if device == "cpu" else 0
    model = random_model(shape, device)
    model.checkpoint_layers(data["train"].get("activation_checkpointing", False))
    loader = random_loader(shape.space, data, kept)
    settings = settings_of(data)
    optimizer = make_optimizer(model, settings.lr, settings.betas, settings.weight_decay)
    last = data["train"]["steps"] - 1  # the full mixture: past the ramp
    spent: list[float] = []
    tokens: list[int] = []
    model.train()
    _forget_peak(device)
    for index in range(steps + 1):
        batch = loader.batch(max(0, last - index))
        began = now(device)
        optimizer.zero_grad(set_to_none=True)
        backward(model, batch, settings, None)
        optimizer.step()
        if index:
            spent.append(now(device) - began)
            tokens.append(batch.n_tokens)
    best = min(range(steps), key=lambda index: spent[index] / tokens[index])
    return {
        "steps": steps,
        "seconds_per_step": spent[best],
        "tokens_per_second": tokens[best] / spent[best],
        "memory": _peak(device) - before,
        "libraries": before,
    }


def settings_of(data: Mapping[str, Any]) -> TrainSettings:
    """Stage 4's settings of a profile's data."""
    return TrainSettings(
        data["train"]["steps"],
        dict(data["train"]["lr"]),
        micro_rows=data["train"].get("micro_rows", 0),
        **step_options(_Dotted(data)),
    )


def random_model(shape: ModelSizes, device: str) -> MultimodalLM:
    """A MultimodalLM of the shape with random weights."""
    lm = build_model(shape, shape.layers, device)
    causal = lm.get_base_model()
    space, matrix = shape.space, causal.get_input_embeddings().weight
    rows = torch.randn(space.n_new, shape.hidden, device=device) * 0.02
    causal.set_input_embeddings(SegmentedEmbedding(matrix, rows, space.text_vocab_size))
    head = None if shape.tied else nn.Parameter(torch.randn_like(rows) * 0.02)
    return MultimodalLM(lm, space, head, {**dict(shape.lora), "layer_norm": False})


def random_loader(space: TokenSpace, data: Mapping[str, Any], kept: Mapping[str, Kept]) -> Loader:
    """Batches of the profile's mixture, of random ids in the lengths that each task keeps."""
    weights = {task: data["mixture"]["weights"].get(task, 0) for task in TASKS if task in kept and kept[task].kept}
    sources = {task: RandomExamples(space, task, kept[task], i) for i, task in enumerate(weights) if weights[task]}
    replay = data["mixture"]["text_replay"]
    if replay:
        sources["text"] = RandomExamples(space, "text", None, 9)
    longest = max(int(source.lengths.max()) for source in sources.values()) + 4
    return make_loader(
        sources,
        weights=weights,
        text_replay=replay,
        ramp=data["mixture"]["ramp"],
        steps=data["train"]["steps"],
        tokens_per_step=data["train"]["tokens_per_step"],
        row_len=max(data["train"]["row_len"], longest),
        pad_id=space.special("pad_mm"),
        prompt_dropout=0.0,
        seed=data["seed"],
    )


class _Dotted:
    """Dotted access to a profile's data, as `step_options` asks for."""

    def __init__(self, data: Mapping[str, Any]):
        self.data = data

    def __getitem__(self, dotted: str) -> Any:
        value: Any = self.data
        for part in dotted.split("."):
            value = value[part]
        return value


def _forget_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else status("VmHWM")
