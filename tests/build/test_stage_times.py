"""The times of `doit plan`: the run's own receipts, another run's scaled by counts, a recorded one, or not known."""

import json
import shutil
from types import SimpleNamespace

import pytest

from mmpt.build import stage_times
from mmpt.build.run_plan import StagePlan
from mmpt.build.stage_table import STAGES, by_name
from mmpt.build.stage_times import PastRun, StageTime, _differs, spoken, time_lines
from mmpt.profile import load_profile
from mmpt.store.errors import UserError

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
        "not known: no run here has built these stages alike; `doit fit` estimates the training"
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
    assert found["train"] == StageTime(None, "the run of other has another base model, device or dtype")
    assert found["split"].basis == "the run of other, 36 times its counts"
    assert list(time_lines(found)) == ["about 72 s for one stage after another, and train, of which no time is known"]


def test_a_recorded_run_stands_in_and_says_so(project, tmp_path):
    project.root.mkdir()
    recorded = {"name": "smoke", "data": dict(project.profile.data), "seconds": {"train": 60.0}, "records": 5400}
    (tmp_path / ".recorded").write_text(json.dumps([recorded]))
    assert str(times(project, "train")["train"]) == "about 60 s (smoke as recorded elsewhere)"


def test_a_run_is_recorded_for_machines_that_have_built_nothing(project, tmp_path):
    built(project, "smoke")
    for _ in range(2):
        stage_times.record(project.root, tmp_path / ".recorded")
    assert [one["name"] for one in json.loads((tmp_path / ".recorded").read_text())] == ["smoke"]
    shutil.rmtree(project.root)
    project.root.mkdir()
    found = times(project, "train", "codecs", "base")
    assert str(found["train"]) == "about 2 min (smoke as recorded elsewhere, 3 times its counts)"
    assert found["codecs"].seconds and found["base"].seconds == 30.0
    with pytest.raises(UserError, match="no receipts"):
        stage_times.record(tmp_path / "nothing")


def test_a_damaged_receipt_is_passed_over(project):
    built(project, "smoke")
    (project.root / "train" / "receipt.json").write_text("{")
    (project.root / "base" / "receipt.json").write_text('{"predicate": {}}')
    assert times(project, "train")["train"].seconds is None


def test_a_run_of_other_codecs_tells_of_the_stages_that_use_none(project):
    built(project, "smoke")
    project.profile.data["codecs"]["audio"] = {"name": "encodec"}
    found = times(project, "codecs", "split", "train")
    assert str(found["codecs"]) == "time not known (its last run has melrvq, not encodec)"
    assert found["split"].seconds and found["train"].seconds


def test_a_run_with_both_codecs_tells_of_one_of_pictures_alone_and_not_the_other_way(project):
    built(project, "smoke")
    both = project.profile.data["codecs"]
    project.profile.data["codecs"] = {**both, "audio": None}
    assert times(project, "codecs")["codecs"].seconds
    now = PastRun("now", {"codecs": both}, {}, None)
    pictures = PastRun("pictures", {"codecs": project.profile.data["codecs"]}, {"codecs": 1.0}, None)
    assert _differs(by_name(STAGES)["codecs"], now, pictures) == "no codec for audio, not melrvq"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (99, "99 s"), (100, "2 min"), (5400, "90 min"), (9000, "2.5 h")]
)
def test_times_are_spoken(seconds, text):
    assert spoken(seconds) == text
