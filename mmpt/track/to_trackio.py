"""trackio: the folder of TRACKIO_DIR, or without one a SQLite file in the run's folder; nothing is uploaded."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mmpt.track.tracker import Medium, Row, TrackedRun, Tracker


class TrackioTracker(Tracker):
    def __init__(self, run: TrackedRun):
        os.environ.setdefault("TRACKIO_DIR", str(run.folder.resolve()))  # it is read when trackio is imported
        import trackio

        self.trackio, self.last = trackio, 0
        self.seen = f"TRACKIO_DIR={os.environ['TRACKIO_DIR']} trackio show --project {run.project}"
        self.run = trackio.init(
            project=run.project,
            name=run.name,
            config=dict(run.settings),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def rows(self, stage: str, rows: list[Row]) -> None:
        for step, values in rows:
            self.run.log({f"{stage}/{key}": value for key, value in values.items()}, step=step)
        self.last = max(self.last, rows[-1][0])

    def results(self, numbers: Mapping[str, float], texts: Mapping[str, str]) -> None:
        table = "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in texts.items())])
        self.run.log({**numbers, "verdicts": self.trackio.Markdown(table)}, step=self.last)

    def media(self, media: list[Medium]) -> None:
        kinds = {".png": self.trackio.Image, ".wav": self.trackio.Audio}
        self.run.log(
            {f"golden/{one.name}": kinds[one.path.suffix](one.path, caption=one.caption) for one in media},
            step=self.last,
        )

    def close(self) -> None:
        self.run.finish()
