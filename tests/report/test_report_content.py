"""report.json of finished, failed, stopped and damaged runs, and what is drawn from it as text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile

from mmpt.codecs.media import load_clip
from mmpt.gating import decide, load_policy
from mmpt.report import build_report, gallery, html, junit, markdown, record, terminal
from mmpt.report.charts import log_ticks, nice_ticks
from mmpt.report.margins import missed, needs, sentence
from mmpt.report.metrics import MEANING
from mmpt.report.remedies import remedies, warnings
from mmpt.report.runs import read_runs, record_run, runs_path, wrong_runs
from mmpt.store.errors import UserError
from mmpt.store.schema import SCHEMAS
from tests.report.sample_run import HOSTILE, make_run


def test_a_good_run_reports_go(report):
    assert report["decision"]["decision"] == "GO"
    assert sorted(one["gate"] for one in report["verdicts"]) == sorted(load_policy().gates)
    assert terminal(report).splitlines()[-1] == report["decision"]["headline"]


def test_the_gallery_has_original_reconstruction_first_and_final(report):
    items = {(one["task"], one["id"]): one for one in report["data"]["gallery"]}
    picture, sound, read = items["t2i", "image-001"], items["t2a", "audio-001"], items["i2t", "image-001"]
    assert [view["what"] for view in picture["views"]] == ["original", "reconstruction", "first", "final", "sampled"]
    assert [view["what"] for view in read["views"]] == ["original", "reconstruction"]
    assert sound["views"][0]["seconds"] == 1.0 and len(sound["views"][0]["peaks"]) == 56
    assert [one["text"] for one in read["texts"]][:2] == ["circle circle the the", picture["caption"]]
    assert {one["attribute"] for one in picture["views"][3]["read"]} == {"shape", "colour"}


def test_its_pictures_and_sounds_are_there(good_run, report):
    for item in report["data"]["gallery"]:
        for view in item["views"]:
            assert (good_run / report["media_base"] / view["path"]).is_file()


def test_an_original_of_a_high_rate_is_resampled_for_the_page(tmp_path):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (48_000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, 48_000, subtype="FLOAT")
    item = {"media": {"root": "real", "path": "a.wav"}, "meta": {"samples": 24_000, "sample_rate": 48_000}}
    shown = gallery._original(item, "audio", {"real": tmp_path}, tmp_path / "out" / "original")
    heard, rate = soundfile.read(shown, dtype="float32")
    assert (rate, heard.shape) == (gallery.RATE, (12_000,))
    plain = load_clip(tmp_path / "a.wav", gallery.RATE, 1, 0.5)[0][0]
    assert np.abs(heard - plain)[:-100].max() < 1e-4  # its end hears what follows the clip


def test_curves_trend_ablation_and_texts(report):
    names = {one["name"] for one in report["data"]["curves"] if one["stage"] == "train"}
    assert {"loss", "loss_a2t", "loss_t2a_cb3", "grad_norm", "lr"} <= names
    assert [row["step"] for row in report["data"]["trend"]] == [0, 0, 250, 250, 500, 500]
    assert {(row["step"], row["task"], row["against"]) for row in report["data"]["ablation"]} >= {
        (0, "t2a", "empty"),
        (500, "t2i", "swapped"),
    }
    assert report["data"]["texts"][0]["after"] == HOSTILE
    assert sum(row["records"] for row in report["data"]["corpus"]) == 60


def test_the_test_loss_of_a_task_is_drawn_beside_its_training_loss(report):
    (curve,) = [one for one in report["data"]["curves"] if one["name"] == "test_loss_t2i"]
    assert curve["steps"] == list(range(0, 501, 50)) and curve["values"][5] == 2.0 < curve["values"][-1] == 2.5
    page = html(report)
    (chart,) = re.findall(r"<figure(?:(?!</figure>).)*Loss of t2i, training beside test.*?</figure>", page, re.S)
    assert "t2i on test" in chart and chart.count("<polyline") == 2


def test_a_no_go_run_says_what_failed_and_what_to_do(tmp_path):
    make_run(tmp_path / "smoke", bad=("B3",))
    report = build_report(tmp_path / "smoke")
    for text in (terminal(report), markdown(report), html(report)):
        assert "NO-GO" in text and "too few items prefer their own prompt" in text.replace("\\_", "_")
        assert "raise train.steps" in text
    assert report["data"]["gallery"]


@pytest.mark.parametrize("stop_before", ["golden", "train", "generate", "ablation"])
def test_a_stopped_run_still_has_its_report(tmp_path, stop_before):
    make_run(tmp_path / "smoke", stop_before=stop_before, bad=("W1", "S1"))
    report = build_report(tmp_path / "smoke")
    assert report["decision"]["decision"] in ("NO-GO", "CANNOT-DECIDE")
    page = html(report, tmp_path / "smoke")
    assert "has no result" in page
    if stop_before == "ablation":
        assert report["media_base"] == "report" and "data:image/png" in page


def test_many_unmeasured_gates_are_one_thing_to_do(tmp_path):
    make_run(tmp_path / "smoke", stop_before="train")
    text = terminal(build_report(tmp_path / "smoke"))
    assert text.count("    next: ") == 1 and "Not measured yet" in text
    assert "waits for stage ablation" in text


def test_damaged_files_do_not_stop_the_report(copied):
    root = copied
    (root / "gates" / "B3" / "verdict.json").write_text("{")
    (root / "gates" / "history.jsonl").write_text("torn {")
    (root / "train" / "receipt.json").write_text("[]")
    shutil.rmtree(root / "render")
    report = build_report(root)
    assert next(one for one in report["provenance"]["stages"] if one["stage"] == "train")["receipt"] == "unreadable"
    assert "receipt unreadable" in html(report)


DRAW = """
import sys
from pathlib import Path
from mmpt.report import build_report, html, junit, markdown, terminal
report = build_report(Path(sys.argv[1]))
html(report), markdown(report), junit(report), terminal(report)
"""


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        (DRAW, {"numpy", "scipy", "soundfile", "torch"}),
        ("import mmpt.report.collect, sys", {"scipy", "torch"}),
    ],
)
def test_drawing_is_light_and_gathering_loads_no_scipy(good_run, code, absent):
    command = [sys.executable, "-c", f"{code}\nprint(*sys.modules)", str(good_run)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert absent & set(done.stdout.split()) == set()


@pytest.fixture
def copied(good_run, tmp_path):
    """The good run, to be written to."""
    shutil.copytree(good_run, tmp_path / "smoke")
    return tmp_path / "smoke"


def test_no_decision_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="decision.json"):
        build_report(tmp_path)


def test_waived_and_overridden_are_shown(report):
    assert (
        "this warm-up trains rows only" in html(report)
        and "this warm-up trains rows only" in markdown(report)
        and "override W1.gap" in terminal(report)
    )


def test_changes_compare_with_the_last_run_that_differed(tmp_path):
    root = tmp_path / "smoke"
    policy = make_run(root)
    first = build_report(root)
    assert first["previous"] is None and first["changes"] == [] and read_runs(root) == []
    record(root)
    record(root)
    assert build_report(root)["changes"] == [] and len(read_runs(root)) == 1
    lines = runs_path(root).read_bytes()
    shutil.rmtree(root)
    make_run(root, bad=("C3",))
    runs_path(root).parent.mkdir(exist_ok=True)
    runs_path(root).write_bytes(lines)
    second = build_report(root)
    rows = {(one["what"], one["name"]): (one["before"], one["after"]) for one in second["changes"]}
    assert rows["decision", ""] == ("GO", "NO-GO") and rows["verdict", "C3"] == ("GO", "NO_GO")
    assert rows["value", "C3 nll"] == ("0.004", "0.31")
    record(root)
    decide(root, policy)
    assert build_report(root)["changes"] == second["changes"]


def test_past_runs_stand_side_by_side(copied):
    root = copied
    record(root)
    state = build_report(root)["state"]
    record_run(root, {**state, "decision": "NO-GO", "verdicts": {**state["verdicts"], "B3": "NO_GO"}})
    record(root)
    report = build_report(root)
    assert [one["decision"] for one in report["runs"]] == ["GO", "NO-GO", "GO"]
    page, text = html(report, root), markdown(report)
    assert "B3 NO GO → GO" in page and 'class="spark"' in page
    assert text.count("00:00 | ✅ GO |") == 2 and "00:00 | ❌ NO-GO |" in text
    key = next(name for name in report["runs"][0]["values"] if name.startswith("B3 "))
    assert len([one["values"][key] for one in report["runs"]]) == 3


def test_a_damaged_line_of_past_runs_is_left_out(copied):
    root = copied
    record(root)
    state = build_report(root)["state"]
    record_run(root, {**state, "decision": "NO-GO"})
    path = runs_path(root)
    first, second = path.read_bytes().splitlines(keepends=True)
    assert wrong_runs(root) == []
    for place in [*range(0, len(first), 97), len(first) - 1]:
        path.write_bytes(first[:place] + bytes([first[place] ^ 1]) + first[place + 1 :] + second)
        assert wrong_runs(root), place
        joined = place == len(first) - 1  # the line's end: both lines are lost
        assert len(read_runs(root)) == (0 if joined else 1), place
    path.write_bytes(second)
    assert wrong_runs(root) == ["a line before line 1 was taken out or put in"]
    path.write_bytes(first + second[:-20])
    assert record_run(root, state) is False and len(read_runs(root)) == 1
    assert record_run(root, {**state, "decision": "NO-GO"}) and len(read_runs(root)) == 2


@pytest.mark.parametrize(
    ("changed", "need", "miss"),
    [
        ({"rule": "min", "bound": 0.7, "value": 0.41}, "≥ 0.7", "short by 0.29 (41 %)"),
        ({"rule": "max", "bound": 0, "value": 3}, "none", "over by 3"),
        ({"rule": "max", "bound": 0.1, "value": 0.9}, "≤ 0.1", "over by 0.8"),
        ({"rule": "equal", "bound": 1, "value": 3}, "= 1", "off by 2"),
        (
            {"rule": "ci_low_above", "bound": 0, "ci_low": -0.02, "ci_high": 1},
            "lower end > 0",
            "short by 0.02",
        ),
        ({"rule": "ci_low_above", "bound": 0, "ci_low": 0, "ci_high": 1}, "lower end > 0", "short by 0"),
        (
            {"rule": "ci_high_max", "bound": 0.0198, "ci_low": 0, "ci_high": 0.03},
            "upper end ≤ 0.0198",
            "over by",
        ),
        ({"rule": "min", "bound": 0.7, "value": 0.9, "status": "pass"}, "≥ 0.7", ""),
        ({"n": 26, "min_n": 256, "status": "cannot_decide"}, "≥ 0.5", "only 26 items, at least 256 needed"),
    ],
)
def test_by_how_much_a_check_missed(changed, need, miss):
    check = {"rule": "min", "bound": 0.5, "value": 0.3, "ci_low": None, "ci_high": None, "status": "fail"}
    check |= {"n": 256, "min_n": 1, "unit": "", "note": "", **changed}
    assert needs(check) == need and missed(check).startswith(miss) and bool(missed(check)) == bool(miss)
    assert miss in sentence(check)


def test_every_metric_of_the_policy_is_told_in_plain_words():
    metrics = {check.metric for gate in load_policy().gates.values() for check in gate.checks}
    assert metrics - set(MEANING) == set()


@pytest.mark.parametrize("gate", sorted(load_policy().gates))
def test_each_failed_gate_says_what_was_measured_the_miss_and_the_next_step(tmp_path, gate):
    make_run(tmp_path / "smoke", items=1, bad=(gate,))
    report = build_report(tmp_path / "smoke", command="doit profile=mine")
    verdict = next(one for one in report["verdicts"] if one["gate"] == gate)
    texts = (html(report), markdown(report).replace("\\", ""), terminal(report), junit(report))
    if verdict["verdict"] in ("GO", "NOT_APPLICABLE"):  # all its checks only warn
        assert any(one["status"] == "warn" for one in verdict["checks"])
        return
    entry = next(one for one in remedies(report) if one["gate"] == gate)
    assert entry["log"] == f"artifacts/smoke/logs/{verdict['stage']}.log" and entry["steps"]
    for step in entry["steps"]:
        assert step["remedy"] and step["findings"]
        for finding in step["findings"]:
            assert finding["problem"] and finding["meaning"] and finding["lines"]
            for text in texts[:3]:
                assert finding["meaning"].split("'")[0] in text
    assert all("doit profile=mine" in text for text in texts[:3])


def test_warnings_are_listed_and_block_nothing(tmp_path):
    make_run(tmp_path / "smoke", items=1, bad=("T1",))
    report = build_report(tmp_path / "smoke")
    assert report["decision"]["decision"] == "GO"
    listed = [one for one in warnings(report) if one["gate"] == "T1"]
    assert listed and remedies(report) == []
    for text in (html(report), markdown(report)):
        assert f"Warnings: {len(warnings(report))}" in text
        assert all(one["problem"][1:] in text for one in listed)


def test_stale_measurements_say_what_to_run(good_run):
    report = build_report(good_run, stale={"train": "train.steps 900 -> 901"})
    for text in (html(report), markdown(report), terminal(report)):
        assert "train.steps 900" in text and "doit" in text


def test_markdown_cells_stay_cells(report):
    for line in markdown(report).splitlines():
        if line.startswith("|"):
            bars = line.replace("\\|", "").count("|")
            assert bars in (5, 8, 9), line


def test_junit_counts_add_up(tmp_path, report):
    good = ElementTree.fromstring(junit(report))
    assert good.get("failures") == "0" and good.get("errors") == "0" and int(good.get("tests")) > 100
    make_run(tmp_path / "smoke", stop_before="scores", bad=("B3",))
    bad = ElementTree.fromstring(junit(build_report(tmp_path / "smoke")))
    assert bad.get("failures") == "1" and bad.get("errors") == "3"
    assert "own prompt" in bad.find(".//failure").get("message")


def test_the_report_holds_no_path_of_this_machine(good_run, report):
    assert str(good_run.parent) not in json.dumps(report)


def test_schemas_of_parts_are_those_of_the_report():
    whole = json.loads((SCHEMAS / "report.schema.json").read_text())["properties"]
    parts = {
        "decision": whole["decision"],
        "verdict": whole["verdicts"]["items"],
        "report_data": whole["data"],
    }
    for name, part in parts.items():
        alone = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
        assert {key: alone[key] for key in part} == part, name


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-0.03, 0.68), (3.2, 3.2), (0, 0), (1e-9, 2e-9), (-5, 1e6), (999.9, 1000.1)]
)
def test_ticks_cover_the_values_with_few_round_steps(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 8


@pytest.mark.parametrize(("low", "high"), [(0.08, 10), (1e-6, 9), (1, 1000), (3e-9, 4e3), (2, 2), (0.9, 1.1)])
def test_log_ticks_cover_the_values(low, high):
    ticks = log_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 8 and ticks == sorted(set(ticks))


def test_a_golden_set_without_outputs_still_shows_captions(tmp_path):
    make_run(tmp_path / "smoke", stop_before="manifest")
    report = build_report(tmp_path / "smoke")
    assert report["data"]["gallery"] and not report["data"]["gallery"][0]["views"]
