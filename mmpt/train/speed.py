"""How fast a run trains: tokens/s, model FLOPs utilisation, memory, and waiting for batches.

Operations are counted from the batch, two a multiplication and addition, as in appendix B of PaLM (Chowdhery et al.
2022), but by what has to be computed here: a frozen weight costs a token 4 (forward, and the gradient of the
input), a trained one 6; attention costs pairs that causality and the sequences' borders allow, 12 a pair, head and
dimension (QK and AV, forward and backward); the head costs supervised tokens and the columns their softmax runs
over. Nothing is counted for padding, for layers that are run again, or for the optimizer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from mmpt.model.multimodal import MultimodalLM
from mmpt.model.vocabulary import SegmentedEmbedding
from mmpt.shards.loader import Batch
from mmpt.store.memory import peak_resident
from mmpt.tokens.formats import IGNORE
from mmpt.train.gpus import peak_flops
from mmpt.train.objective import decode_ranges


@dataclass(frozen=True)
class Flops:
    """Operations of forward and backward. token: of each token; pair: of two tokens that meet in attention, all
    layers; target: float64 [slots], of a supervised token.
    """

    token: float
    pair: float
    target: np.ndarray

    @classmethod
    def of(cls, model: MultimodalLM, support: str) -> Flops:
        """Of a dense model in its present division into frozen and trained weights."""
        tables = (nn.Embedding, SegmentedEmbedding)
        looked_up = {id(p) for one in model.modules() if isinstance(one, tables) for p in one.parameters()}
        matrices = [p for p in model.decoder.parameters() if p.ndim == 2 and id(p) not in looked_up]
        token = sum((6 if p.requires_grad else 4) * p.numel() for p in matrices)
        config = model.config
        heads = int(config.num_attention_heads)
        width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        pair = 12 * heads * width * int(config.num_hidden_layers)
        space = model.space
        lo, hi = (bound.numpy() for bound in decode_ranges(space))
        if support == "full":
            lo, hi = np.zeros_like(lo), np.full_like(hi, space.vocab_size_total)
        base, new = model.head()
        split = space.text_vocab_size
        frozen = np.clip(np.minimum(hi, split) - lo, 0, None)
        rows = np.clip(hi - np.maximum(lo, split), 0, None)
        columns = (6 if base.requires_grad else 4) * frozen + (6 if new.requires_grad else 4) * rows
        return cls(float(token), float(pair), columns.astype(np.float64) * base.shape[1])

    def of_batch(self, batch: Batch) -> float:
        """Of a global batch. A sequence of L tokens has L (L + 1) / 2 pairs."""
        real = batch.task >= 0
        pairs = int((batch.position_ids[real] + 1).sum())
        slots = batch.slot[batch.labels != IGNORE]
        targets = np.bincount(slots, minlength=len(self.target)) @ self.target
        return float(real.sum() * self.token + pairs * self.pair + targets)


class Pace:
    """Adds up what training steps took, without the saves and measurements between them.

    Args:
        world: devices that share a step. A run's receipt has the numbers of the whole run, a log those since the
            last log.
    """

    def __init__(self, model: MultimodalLM, support: str, world: int):
        self.flops, self.world, self.device = Flops.of(model, support), world, model.device
        self.peak = None
        if model.device.type == "cuda":
            self.peak = peak_flops(torch.cuda.get_device_name(model.device), model.dtype)
        self._interval, self._run = np.zeros(4), np.zeros(4)  # seconds, tokens, operations, seconds waited
        self._waited = 0.0
        self.rest()

    def rest(self) -> None:
        """What was done since the last `lap` was no training."""
        self._last = time.perf_counter()

    def lap(self, batch: Batch, waited: float) -> None:
        """A step is over, and its wait for the device if there was one; `waited`: seconds since the run began."""
        now = time.perf_counter()
        self._interval += (now - self._last, batch.n_tokens, self.flops.of_batch(batch), waited - self._waited)
        self._last, self._waited = now, waited

    def interval(self) -> dict[str, float | None]:
        """Numbers since this was last called."""
        numbers = self._numbers(self._interval)
        self._run += self._interval
        self._interval = np.zeros(4)
        return numbers

    def whole(self) -> dict[str, float | None]:
        """Numbers of the run so far, up to the last `interval`."""
        seconds, tokens, *_ = self._run.tolist()
        return {"seconds": seconds, "tokens": int(tokens), **self._numbers(self._run)}

    def _numbers(self, added: np.ndarray) -> dict[str, float | None]:
        seconds, tokens, operations, waited = added.tolist()
        seconds = max(seconds, 1e-9)
        a_second = operations / seconds / self.world
        return {
            "tokens_per_second": tokens / seconds,
            "model_flops_per_second": a_second,
            "model_flops_utilisation": None if self.peak is None else a_second / self.peak,
            "peak_memory_bytes": peak_memory(self.device),
            "data_wait_share": waited / seconds,
        }


def peak_memory(device: torch.device) -> int:
    """Bytes: the process's largest resident set, on CUDA the allocator's largest use."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident()
