"""The sums of a log interval, and its row in metrics.jsonl. Every number is of its interval alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmpt.model.multimodal import MultimodalLM
from mmpt.shards.mixture import KINDS
from mmpt.store.tasks import EMIT_TASKS, TASKS
from mmpt.tokens.formats import SLOTS
from mmpt.tokens.space import TokenSpace
from mmpt.train.objective import Sums


@dataclass
class Interval:
    """Steps since the last row."""

    sums: Sums
    objective: float = 0.0
    steps: int = 0
    clipped: int = 0
    norm_sum: float = 0.0
    norm_max: float = 0.0
    tokens: int = 0

    @classmethod
    def empty(cls, space: TokenSpace) -> Interval:
        """Nothing added yet."""
        return cls(Sums.zero(space))

    def add(self, sums: Sums, objective: float, norm: float, clip: float, tokens: int) -> None:
        """Count one step: losses, objective, gradient norm before clipping, tokens without padding."""
        self.sums = self.sums + sums
        self.objective += objective
        self.steps += 1
        self.clipped += norm > clip
        self.norm_sum += norm
        self.norm_max = max(self.norm_max, norm)
        self.tokens += tokens

    def state(self) -> dict[str, Any]:
        """As JSON; floats survive it exactly."""
        plain = {key: value for key, value in vars(self).items() if key != "sums"}
        return {**plain, "nll": self.sums.nll.tolist(), "count": self.sums.count.tolist()}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Interval:
        """The inverse of `state`."""
        plain = dict(state)
        sums = Sums(np.array(plain.pop("nll"), np.float64), np.array(plain.pop("count"), np.int64))
        return cls(sums, **plain)

    def row(
        self, space: TokenSpace, step: int, rates: dict[str, float], norms: dict[str, float], spread: dict[str, float]
    ) -> dict[str, Any]:
        """The row of metrics.jsonl after `step` steps; a loss without tokens is null.

        Args:
            rates: learning rate by group.
            norms: `row_norms` of the model.
            spread: `modality_norms` of the model.
        """
        nll, count = self.sums.nll, self.sums.count
        row: dict[str, Any] = {
            "step": step,
            # The specification's overall loss: token-weighted over the four tasks; replayed text has its own.
            "loss": _mean(nll[: len(TASKS)].sum(), count[: len(TASKS)].sum()),
            "objective": self.objective / self.steps,
            **{f"loss_{kind}": _mean(nll[i].sum(), count[i].sum()) for i, kind in enumerate(KINDS)},
        }
        names = SLOTS(space)
        for task in EMIT_TASKS:
            i = TASKS.index(task)
            for j, slot in enumerate(names):
                if slot.startswith("audio" if task == "t2a" else "image"):
                    row[f"loss_{task}_{slot.removeprefix('audio_')}"] = _mean(nll[i, j], count[i, j])
        row |= {f"supervised_{kind}": int(count[i].sum()) for i, kind in enumerate(KINDS)}
        row |= {
            "tokens": self.tokens,
            "grad_norm": self.norm_sum / self.steps,
            "grad_norm_max": self.norm_max,
            "clipped": self.clipped / self.steps,
            **{f"lr_{name}": value for name, value in rates.items()},
            **{f"norm_{name}": value for name, value in norms.items()},
            **spread,
        }
        return row


def _mean(total: float, count: int) -> float | None:
    return float(total) / int(count) if count else None


@torch.no_grad()
def row_norms(model: MultimodalLM) -> dict[str, float]:
    """Mean L2 norm of the new rows, by matrix and segment: embed_image, embed_audio_cb0, head_special, .."""
    start = model.space.new_start
    out = {}
    for which, rows in _matrices(model).items():
        norms = rows.float().norm(dim=1)
        for segment in model.space.ranges.values():
            if segment.start >= start:
                part = norms[segment.start - start : segment.stop - start]
                out[f"{which}_{segment.name.lower()}"] = part.mean()
    return dict(zip(out, torch.stack(list(out.values())).tolist(), strict=True))


@torch.no_grad()
def modality_norms(model: MultimodalLM) -> dict[str, float]:
    """Mean and standard deviation of the L2 norms of all image and audio rows, under the specification's names:
    emb_norm_mean, emb_norm_std and, where the head is not tied, head_norm_mean, head_norm_std.
    """
    start = model.space.new_start
    segments = [one for one in model.space.ranges.values() if one.name.startswith(("IMAGE", "AUDIO"))]
    out = {}
    for which, rows in _matrices(model).items():
        norms = torch.cat([rows[one.start - start : one.stop - start].float().norm(dim=1) for one in segments])
        name = {"embed": "emb", "head": "head"}[which]
        out[f"{name}_norm_mean"], out[f"{name}_norm_std"] = norms.mean().item(), norms.std(correction=0).item()
    return out


def _matrices(model: MultimodalLM) -> dict[str, torch.Tensor]:
    """The new rows of the embedding and, where it is not tied, of the head: [new ids, H] each."""
    _, head = model.head()
    return {"embed": model.embedding.rows} if model.tied else {"embed": model.embedding.rows, "head": head}
