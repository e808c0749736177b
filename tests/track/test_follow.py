"""A finished run and one that is being built, sent to a tracker that keeps everything, to MLflow and to trackio."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from mmpt.store.jsonl import read_jsonl
from mmpt.track import follow, tracker
from mmpt.track.follow import Sender, close_all, send_all
from tests.report.sample_run import make_run

REPO = Path(__file__).resolve().parents[2]


class Kept(tracker.Tracker):
    """Keeps what it is given."""

    opened: ClassVar[list["Kept"]] = []

    def __init__(self, run):
        self.run, self.given, self.seen = run, [], f"seen at {run.name}"
        Kept.opened.append(self)

    def rows(self, stage, rows):
        self.given += [(stage, step, dict(values)) for step, values in rows]

    def results(self, numbers, texts):
        self.given.append(("results", dict(numbers), dict(texts)))

    def media(self, media):
        self.given += [("medium", one.name, one.path.suffix, one.caption) for one in media]

    def close(self):
        self.given.append("closed")


class Broken(Kept):
    def rows(self, stage, rows):
        raise ConnectionError("no route to the server\nand more")


@pytest.fixture
def root(tmp_path):
    make_run(tmp_path / "smoke", items=1)
    return tmp_path / "smoke"


@pytest.fixture(autouse=True)
def _kept(monkeypatch):
    Kept.opened = []
    monkeypatch.setitem(tracker.MODULES, "kept", f"{__name__}:Kept")
    monkeypatch.setitem(tracker.MODULES, "broken", f"{__name__}:Broken")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])


def test_a_finished_run_is_sent_once(root):
    sender = Sender("kept", root, {"seed": 1})
    sender.send(whole=True)
    (kept,) = Kept.opened
    logged = read_jsonl(root / "train" / "data" / "metrics.jsonl")
    losses = [(one[1], one[2]["loss"]) for one in kept.given if one[0] == "train"]
    assert losses == [(row["step"], row["loss"]) for row in logged]
    results = next(one for one in kept.given if one[0] == "results")
    assert results[2]["decision"].startswith("GO") and results[2]["gate B3"].startswith("GO")
    assert any(name.startswith("B3/") for name in results[1])
    media = [one for one in kept.given if one[0] == "medium"]
    assert {one[2] for one in media} == {".png", ".wav"}
    assert any(one[1].startswith("t2i/") and one[1].endswith("/final") for one in media)
    assert sender.send(whole=True) == 0, "the same again"
    assert Sender("kept", root, {}).send(whole=True) == 0, "and from another process"
    assert len(Kept.opened) == 1


def test_rows_are_sent_while_they_are_written_and_no_verdict_before_the_decision(root):
    (root / "decision.json").unlink()
    work = root / ".staging" / "work-train-0123456789ab" / "run"
    work.mkdir(parents=True)
    (work / "metrics.jsonl").write_text('{"step": 10, "loss": 2.5, "loss_t2i": null}\n{"step": 20, "lo')
    sender = Sender("kept", root, {})
    sender.send(whole=True)
    (kept,) = Kept.opened
    assert kept.run.name == "smoke-0123456789ab"
    assert [one for one in kept.given if one[0] == "train"] == [("train", 10, {"loss": 2.5})]
    assert {one[0] for one in kept.given} == {"warmup", "train"}
    (work / "metrics.jsonl").write_text('{"step": 10, "loss": 2.5}\n{"step": 20, "loss": 2.0}\n')
    assert sender.send(whole=False) == 1 and kept.given[-1] == ("train", 20, {"loss": 2.0})


def test_another_training_is_another_run(root):
    sender = Sender("kept", root, {})
    sender.send(whole=True)
    work = root / ".staging" / "work-train-ffffffffffff" / "run"
    work.mkdir(parents=True)
    (work / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n')
    sender.send(whole=False)
    first, second = Kept.opened
    assert first.given[-1] == "closed" and second.run.name == "smoke-ffffffffffff"
    assert ("train", 1, {"loss": 3.0}) in second.given


def test_a_tracker_that_fails_keeps_no_other_waiting(root):
    senders = [Sender(name, root, {}) for name in ("broken", "kept")]
    count, failed = send_all(senders, whole=True)
    assert failed == {"broken": "ConnectionError: no route to the server"} and count > 0
    assert close_all(senders) == {} and Kept.opened[-1].given[-1] == "closed"


def test_nothing_is_sent_of_a_run_without_training(tmp_path):
    assert Sender("kept", tmp_path / "smoke", {}).send(whole=True) == 0 and not Kept.opened


def sent_by(root, name, **environment):
    """The answer of the process that follows a build, for a run that has ended."""
    asked = [sys.executable, "-m", "mmpt.track.follow", str(root), "--settings", '{"train.steps": 500}', name]
    done = subprocess.run(
        asked, input=b"", capture_output=True, check=False, cwd=REPO, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_mlflow_has_all_of_it(root):
    pytest.importorskip("mlflow", reason='pip install "mmpt[mlflow]" brings it')
    answer = sent_by(root, "mlflow")
    assert answer["failed"] == {} and "mlflow ui" in answer["seen"]["mlflow"]
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=answer["seen"]["mlflow"].split()[-1])
    experiment = client.get_experiment_by_name("smoke").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.data.params == {"train.steps": "500"} and run.data.tags["decision"].startswith("GO")
    assert run.info.status == "FINISHED"
    logged = read_jsonl(root / "train" / "data" / "metrics.jsonl")
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(one.step, one.value) for one in history] == [(row["step"], row["loss"]) for row in logged]
    golden = Path(run.info.artifact_uri.removeprefix("file://")) / "golden"
    assert list(golden.glob("t2i/*/final/*.png")) and list(golden.glob("t2a/*/final/*.wav"))
    assert follow.Sender("mlflow", root, {}).send(whole=True) == 0, "a run is continued, not begun again"


def test_trackio_has_all_of_it(root, tmp_path):
    pytest.importorskip("trackio", reason='pip install "mmpt[trackio]" brings it')
    answer = sent_by(root, "trackio", TRACKIO_DIR=str(tmp_path / "store"))
    assert answer["failed"] == {} and str(tmp_path / "store") in answer["seen"]["trackio"]
    with sqlite3.connect(tmp_path / "store" / "smoke.db") as store:
        kept = [(step, json.loads(text)) for step, text in store.execute("select step, metrics from metrics")]
    logged = read_jsonl(root / "train" / "data" / "metrics.jsonl")
    found = [(step, row["train/loss"]) for step, row in kept if "train/loss" in row]
    assert sorted(found) == [(row["step"], row["loss"]) for row in logged]
    names = {key for _, row in kept for key in row}
    assert "verdicts" in names and any(name.startswith("golden/") for name in names)
