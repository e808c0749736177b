"""The times of `doit plan`: the run's own receipts, another run's scaled by counts, a recorded one, or not known."""

import json
from types import SimpleNamespace

import pytest

from mmpt.build import stage_times
from mmpt.build.run_plan import StagePlan
from mmpt.build.stage_table import STAGES
from mmpt.build.stage_times import StageTime, spoken, time_lines
from mmpt.profile import load_profile

SLICES = {
    "corpus": {"corpus": {"sources": [{"reader": "generated", "pictures": 100, "sounds": 50}]}},
    "codecs": {"codecs": {"audio": {"name": "melrvq"}, "image": {"name": "patchvq"}}},
    "base": {"base": None},  # the profile's own
    "train": {"train": {"steps": 300, "tokens_per_step": 2560, "save_every": 450}},
    "split": {"split": {}},
}
SECONDS = {"corpus": 4.0, "codecs": 9.0, "base": 30.0, "train": 50.0, "split": 2.0}


@pytest.fixture
def project(tmp_path):
    profile = load_profile("smoke")
    return SimpleNamespace(profile=profile, root=tmp_path / "smoke")


def built(project, name, **changed):
    """Receipts of a run NAME, as far as times are read from them."""
    runtime = {key: project.profile.data["runtime"][key] for key in ("device", "dtype")}
    for stage, seconds in SECONDS.items():
        slices = (
            {"base": {"base": project.profile.data["base"] | changed}} if stage == "base" else {stage: SLICES[stage]}
        )
        build = {"externalParameters": {"slice": slices[stage]}, "internalParameters": runtime}
        predicate = {"buildDefinition": build, "runDetails": {"info": {"seconds": seconds}}}
        folder = project.root.parent / name / stage
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "receipt.json").write_text(json.dumps({"predicate": predicate}))


def times(project, *names):
    planned = [StagePlan(one, "runs", (), ()) for one in STAGES if one.name in names]
    return stage_times.stage_times(project, planned)


@pytest.fixture(autouse=True)
def nothing_recorded(tmp_path, monkeypatch):
    (tmp_path / ".recorded").write_text("[]")
    monkeypatch.setattr(stage_times, "RECORDED", tmp_path / ".recorded")


def test_nothing_is_known_before_a_run(project):
    project.root.mkdir()
    found = times(project, "train", "corpus")
    assert found == dict.fromkeys(("corpus", "train"), StageTime(None, ""))
    assert list(time_lines(found)) == [
        "not known: no run here has built these stages; `doit fit` estimates the training"
    ]


def test_the_runs_own_receipt_counts_and_grows_with_steps(project):
    built(project, "smoke")
    found = times(project, "split", "train", "base")
    assert found["base"] == StageTime(30.0, "its last run")
    assert found["train"] == StageTime(150.0, "its last run, 3 times its counts")  # 900 steps, 300 then
    assert found["split"].seconds == pytest.approx(2.0 * 5400 / 150)
    assert list(time_lines(found)) == ["about 4 min for one stage after another"]


def test_another_run_counts_only_with_the_same_model_where_there_is_a_model(project):
    project.root.mkdir()
    built(project, "other")
    assert times(project, "train")["train"] == StageTime(150.0, "the run of other, 3 times its counts")
    built(project, "other", config={"hidden_size": 4096})
    found = times(project, "train", "split")
    assert found["train"].seconds is None and found["split"].basis == "the run of other, 36 times its counts"
    assert list(time_lines(found)) == ["about 72 s for one stage after another, and train, of which no time is known"]


def test_a_recorded_run_stands_in_and_says_so(project, tmp_path):
    project.root.mkdir()
    recorded = {"name": "smoke", "data": dict(project.profile.data), "seconds": {"train": 60.0}, "records": 5400}
    (tmp_path / ".recorded").write_text(json.dumps([recorded]))
    assert str(times(project, "train")["train"]) == "about 60 s (smoke as recorded elsewhere)"


def test_a_damaged_receipt_is_passed_over(project):
    built(project, "smoke")
    (project.root / "train" / "receipt.json").write_text("{")
    (project.root / "base" / "receipt.json").write_text('{"predicate": {}}')
    assert times(project, "train")["train"].seconds is None


def test_the_codecs_of_a_run_decide_what_its_tokens_cost(project):
    built(project, "smoke")
    project.profile.data["codecs"]["audio"] = {"name": "encodec"}
    assert times(project, "codecs")["codecs"].seconds is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (99, "99 s"), (100, "2 min"), (5400, "90 min"), (9000, "2.5 h")]
)
def test_times_are_spoken(seconds, text):
    assert spoken(seconds) == text
