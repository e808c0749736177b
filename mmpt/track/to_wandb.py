"""Weights & Biases: its server where this machine is logged in, else offline in the run's folder, for `wandb sync`."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mmpt.track.run_facts import STAGES
from mmpt.track.tracker import Medium, Row, TrackedRun, Tracker


class WandbTracker(Tracker):
    def __init__(self, run: TrackedRun):
        import wandb

        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        self.wandb = wandb
        self.run = wandb.init(
            project=run.project,
            id=run.name,
            name=run.name,
            config=dict(run.settings),
            dir=str(run.folder),
            mode=mode,
            resume="allow",
            settings=wandb.Settings(console="off", x_disable_stats=True),
        )
        self.seen = self.run.url or f"wandb sync {run.folder}/wandb/offline-run-*"
        for stage in STAGES:  # each stage counts its own steps
            self.run.define_metric(f"{stage}/step")
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def rows(self, stage: str, rows: list[Row]) -> None:
        for step, values in rows:
            self.run.log({f"{stage}/step": step, **{f"{stage}/{key}": value for key, value in values.items()}})

    def results(self, numbers: Mapping[str, float], texts: Mapping[str, str]) -> None:
        self.run.summary.update({**numbers, **texts})

    def media(self, media: list[Medium]) -> None:
        kinds = {".png": self.wandb.Image, ".wav": self.wandb.Audio}
        self.run.log(
            {f"golden/{one.name}": kinds[one.path.suffix](str(one.path), caption=one.caption) for one in media}
        )

    def close(self) -> None:
        self.run.finish()
