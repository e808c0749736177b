"""The numbers of a training run, read from a profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mmpt.shards.mixture import KINDS


@dataclass(frozen=True)
class TrainSettings:
    """What decides a run besides model and data.

    Args:
        steps: optimizer steps in all.
        lr: peak rate by group: lora, embed, head; trained norms follow lora.
        warmup_steps: steps of linear rise; then a cosine down to min_lr_ratio of the peak.
        weight_decay, betas: of AdamW. clip: largest gradient norm.
        task_weights: factor of each task's mean loss in the objective.
        support: "full": softmax over the whole vocabulary; "range": over the ids that decoding allows there.
        z_loss, label_smoothing: see linear_cross_entropy.
        log_every, save_every: in steps.
        monitor_from: first step (after warm-up and ramp) that the monitors judge.
        micro_rows: rows of a batch that go through the model at once; 0 leaves it open, see `rows_at_once`.
        seed: of the dropout, with the step and the micro-batch.
    """

    steps: int
    lr: Mapping[str, float]
    warmup_steps: int = 0
    min_lr_ratio: float = 0.1
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    task_weights: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 1.0))
    support: str = "full"
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    log_every: int = 10
    save_every: int = 1000
    monitor_from: int = 0
    micro_rows: int = 0
    seed: int = 0

    def schedule(self) -> dict[str, Any]:
        """What a checkpoint says of the schedule; a resumed run must agree."""
        kept = asdict(self)
        for key in ("log_every", "save_every"):
            del kept[key]
        return {
            **kept,
            "lr": dict(self.lr),
            "betas": list(self.betas),
            "task_weights": dict(self.task_weights),
        }


def step_options(profile: Any) -> dict[str, Any]:
    """The part of `train` in the profile that warm-up and stage 4 share, as TrainSettings' fields."""
    loss = profile["train.loss"]
    return {
        "min_lr_ratio": profile["train.min_lr_ratio"],
        "weight_decay": profile["train.weight_decay"],
        "betas": tuple(profile["train.betas"]),
        "clip": profile["train.clip"],
        "support": loss["support"],
        "z_loss": loss.get("z_loss", 0.0),
        "label_smoothing": loss.get("label_smoothing", 0.0),
        "task_weights": {kind: loss.get("task_weights", {}).get(kind, 1.0) for kind in KINDS},
        "log_every": profile["train.log_every"],
    }
