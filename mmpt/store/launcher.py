"""What runs the heavy part of a stage: this process alone, or workers that a launcher starts and watches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Launcher:
    """A profile's `launcher` as it holds for one stage. In no fingerprint: it changes no byte of a result.

    Args:
        kind: "local" (the stage's own process), "torchrun", "ray" or "slurm".
        processes: workers; 0: one per GPU of the machine.
        shard_base: train: the frozen base is spread over the workers (FSDP2) instead of kept by each.
        restarts: how often dead workers are started again before the stage is given up.
        slurm: what to ask slurm for.
    """

    kind: str = "local"
    processes: int = 1
    shard_base: bool = False
    restarts: int = 3
    slurm: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spreads(self) -> bool:
        """Whether there are workers at all."""
        return self.kind != "local"

    def to_json(self) -> dict[str, Any]:
        """``Launcher(**x.to_json()) == x``."""
        return asdict(self)
