"""MLflow: the server of MLFLOW_TRACKING_URI, or without one a SQLite file in the run's folder."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping

from mmpt.track.tracker import Medium, Row, TrackedRun, Tracker

LONGEST = 500  # characters of a parameter or tag: stores refuse longer ones
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 1000  # in one request: a server refuses more
REFUSED = re.compile(r"[^\w./ -]")  # characters that MLflow refuses in a name


class MlflowTracker(Tracker):
    def __init__(self, run: TrackedRun):
        from mlflow.entities import Param, RunTag
        from mlflow.tracking import MlflowClient

        server = os.environ.get("MLFLOW_TRACKING_URI")
        store = server or f"sqlite:///{(run.folder / 'mlflow.db').resolve()}"
        self.seen = server or f"mlflow ui --backend-store-uri {store}"
        self.client = MlflowClient(tracking_uri=store)
        found = self.client.get_experiment_by_name(run.project)
        files = None if server else (run.folder / "files").resolve().as_uri()
        experiment = found.experiment_id if found else self.client.create_experiment(run.project, files)
        known = self.client.search_runs([experiment], f"attributes.run_name = '{run.name}'", max_results=1)
        if known:
            self.id = known[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
            return
        self.id = self.client.create_run(experiment, run_name=run.name).info.run_id
        params = [Param(REFUSED.sub("-", key), str(value)[:LONGEST]) for key, value in run.settings.items()]
        for start in range(0, len(params), PARAMS_AT_ONCE):
            self.client.log_batch(self.id, params=params[start : start + PARAMS_AT_ONCE])
        self.client.log_batch(self.id, tags=[RunTag("program", "mmpt")])

    def rows(self, stage: str, rows: list[Row]) -> None:
        self._log([(f"{stage}/{key}", value, step) for step, values in rows for key, value in values.items()])

    def results(self, numbers: Mapping[str, float], texts: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._log([(key, value, 0) for key, value in numbers.items()])
        self.client.log_batch(self.id, tags=[RunTag(key, value[:LONGEST]) for key, value in texts.items()])

    def _log(self, numbers: list[tuple[str, float, int]]) -> None:
        """(name, value, step) of each."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(REFUSED.sub("-", key), value, now, step) for key, value, step in numbers]
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self.client.log_batch(self.id, metrics=metrics[start : start + METRICS_AT_ONCE])

    def media(self, media: list[Medium]) -> None:
        for one in media:
            self.client.log_artifact(self.id, str(one.path), f"golden/{one.name}")
            self.client.log_text(self.id, one.caption + "\n", f"golden/{one.name}/caption.txt")

    def close(self) -> None:
        self.client.set_terminated(self.id)
