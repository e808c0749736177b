"""What a tracker is given, whichever it is."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MODULES = {
    "mlflow": "mmpt.track.to_mlflow:MlflowTracker",
    "trackio": "mmpt.track.to_trackio:TrackioTracker",
    "wandb": "mmpt.track.to_wandb:WandbTracker",
}
"""Name in the profile's `track` -> its class. Each imports its package only when a run is opened."""


Row = tuple[int, Mapping[str, float]]
"""A logged step, and its numbers by name."""


@dataclass(frozen=True)
class TrackedRun:
    """A training run as trackers name it.

    Args:
        project: the profile's name.
        name: of this training run: the profile's name and the beginning of stage train's fingerprint.
        settings: the profile that the run was started with, by dotted key.
        folder: where a tracker that has no server keeps its files.
    """

    project: str
    name: str
    settings: Mapping[str, str | float | bool]
    folder: Path


@dataclass(frozen=True)
class Medium:
    """A wav or png. name: "t2i/0003/final". caption: the prompt, or what the model said of it."""

    name: str
    path: Path
    caption: str


class Tracker(ABC):
    """One run in one tracker. A name that was given before continues that run."""

    seen: str = ""
    """The command or address that shows the run."""

    @abstractmethod
    def __init__(self, run: TrackedRun): ...

    @abstractmethod
    def rows(self, stage: str, rows: list[Row]) -> None:
        """Logged steps of a stage that trains, in their order."""

    @abstractmethod
    def results(self, numbers: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """What the gates found: numbers by "gate/check/slice"; verdicts and decision as texts. The last ones count."""

    @abstractmethod
    def media(self, media: list[Medium]) -> None:
        """Golden items: originals and outputs."""

    @abstractmethod
    def close(self) -> None:
        """All is written or sent when this returns."""


def open_tracker(name: str, run: TrackedRun) -> Tracker:
    """The tracker of that name, its run opened.

    Raises:
        ImportError: its package is not installed.
    """
    module, _, kind = MODULES[name].partition(":")
    tracker: type[Tracker] = getattr(importlib.import_module(module), kind)
    run.folder.mkdir(parents=True, exist_ok=True)
    return tracker(run)
