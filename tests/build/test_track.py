"""`track` in a profile: the run goes to its trackers, and nothing of it changes."""

import mmpt.profile.packages
from tests.build.conftest import Outcome
from tests.build.forked_doit import forked_doit


def doit(project, *words):
    def there():
        mmpt.profile.packages.installed = lambda package: True

    return Outcome(*forked_doit(project.folder, *words, first=there))


def test_a_tracker_changes_no_result_and_no_exit_code(built):
    with (built.folder / "smoke.yaml").open("a") as profile:
        profile.write("track: [trackio]\n")
    outcome = doit(built)
    assert (outcome.code, outcome.ran) == (0, []), outcome
    assert "track: nothing to send" in outcome.text  # the tiny project trains nothing


def test_a_tracker_that_fails_is_named_and_changes_nothing(built):
    with (built.folder / "smoke.yaml").open("a") as profile:
        profile.write("track: [trackio]\n")
    built.edit("smoke.yaml", "bonus: 0", "bonus: 5")
    work = built.root / ".staging" / "work-train-0123456789ab" / "run"
    work.mkdir(parents=True)
    (work / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    (built.folder / "trackio.py").write_text("raise ImportError('half an installation')\n")
    outcome = doit(built)
    assert (outcome.code, outcome.ran) == (0, ["render"]), outcome
    assert "track: trackio FAILED: ImportError: half an installation; `doit track` sends what" in outcome.text


def test_a_profile_without_trackers_has_nothing_to_track(built):
    outcome = doit(built, "track")
    assert outcome.code == 2 and "the profile names no tracker" in outcome.text and "track: [mlflow]" in outcome.text
