"""The monitors of gate B2 and the evidence of B1: each stop and each number from runs made up to show it."""

import math

import numpy as np
import pytest

from mmpt.store.evidence import Metric
from mmpt.store.tasks import TASKS
from mmpt.train.evidence import interval, loss_metrics, stability_metrics
from mmpt.train.monitors import Monitors
from tests.gating.gate_evidence import completed, failing, judged, undecided, warning


def calm(start=0, steps=20):
    monitors = Monitors(start)
    for step in range(steps):
        assert monitors.after_backward(step, 2.0, 1.0 + 0.1 * (step % 3), 1.5) is None
    return monitors


@pytest.mark.parametrize("objective, norm", [(math.nan, 1.0), (1.0, math.inf), (math.inf, 1.0), (1.0, math.nan)])
def test_a_number_that_is_not_finite_stops_at_once(objective, norm):
    monitors = Monitors(1000)
    assert "step 0" in monitors.after_backward(0, objective, norm, 1.0)
    assert monitors.nonfinite_steps == 1


def test_an_exploding_gradient_stops_only_after_warm_up_and_ramp():
    assert "times its running median" in calm(start=10).after_backward(20, 2.0, 200.0, 1.0)
    assert calm(start=30).after_backward(20, 2.0, 200.0, 1.0) is None
    assert calm(start=10).after_backward(20, 2.0, 90.0, 1.0) is None


def test_rows_that_jump_within_an_interval_stop():
    monitors = calm(start=10)
    assert monitors.at_log(20, {"embed_image": 1.0, "embed_special": 1.0}) is None
    assert monitors.at_log(30, {"embed_image": 2.9, "embed_special": 1.0}) is None
    assert "embed_image grew 3.1" in monitors.at_log(40, {"embed_image": 9.0, "embed_special": 1.0})
    assert monitors.worst_row_jump == pytest.approx(9 / 2.9)


def test_its_state_survives_json():
    import json

    monitors = calm()
    again = Monitors.of(json.loads(json.dumps(monitors.state())))
    assert again == monitors


def test_stability_evidence():
    monitors = calm()
    named = {metric.name: metric.value for metric in stability_metrics(monitors, 20, 50)}
    assert named["nonfinite_steps"] == 0 and named["steps_missing"] == 30 and named["clipped_share"] == 0
    assert 1.0 <= named["grad_norm_over_median"] < 1.3


def logged(monitors, *norms):
    for step, norm in enumerate(norms, 20):
        monitors.at_log(step, {"embed_image": norm})
    return monitors


def b2(monitors, done=20, planned=20):
    drawn = [Metric("drawn_outside_train", 0, 40, "records", "lower")]
    drawn += [Metric("examples_never_drawn", 0, 10, "examples", "lower", slice=task) for task in TASKS]
    return judged("B2", [*stability_metrics(monitors, done, planned), *drawn])


def test_b2_passes_a_calm_run_and_fails_each_kind_of_storm():
    assert b2(logged(calm(), 1.0, 1.1)).verdict == "GO" and not warning(b2(logged(calm(), 1.0, 1.1)))
    jumping = logged(calm(), 1.0, 3.5)
    assert failing(b2(jumping)) == {"row_norm"}
    exploding = logged(calm(), 1.0, 1.1)
    exploding.after_backward(20, 2.0, 200.0, 1.0)
    assert failing(b2(exploding)) == {"grad_norm"}
    diverged = logged(calm(), 1.0, 1.1)
    diverged.after_backward(20, math.nan, 1.0, 1.0)
    assert failing(b2(diverged, planned=50)) == {"nonfinite", "finished"}


def test_b2_warns_before_it_blocks_and_of_clipping():
    rough = logged(calm(), 1.0, 2.5)
    rough.after_backward(20, 2.0, 70.0, 1.0)
    assert b2(rough).verdict == "GO" and warning(b2(rough)) == {"grad_norm", "row_norm"}
    clipped = Monitors(0)
    for step in range(20):
        clipped.after_backward(step, 2.0, 1.0, 0.5)
    assert warning(b2(logged(clipped, 1.0, 1.1))) == {"clipped"}


def test_a_nan_in_the_very_first_step_is_a_no_go_and_not_too_few_items():
    monitors = Monitors(0)
    monitors.after_backward(0, math.nan, 1.0, 1.0)
    verdict = b2(monitors, done=0)
    assert verdict.verdict == "NO_GO" and failing(verdict) == {"nonfinite", "finished"}


def test_a_run_that_ends_with_its_ramp_was_never_judged_by_its_ratios():
    verdict = b2(logged(calm(start=100), 1.0, 1.1))
    assert verdict.verdict == "CANNOT_DECIDE" and undecided(verdict) == {"grad_norm", "row_norm"}


def test_loss_evidence_has_the_sign_and_the_items_of_its_runs():
    start = {"t2a": [4.0, 6.0], "a2t": [2.0, 2.0]}
    end = {"t2a": [3.0, 5.0], "a2t": [2.0, 3.0]}
    metrics = {m.name: m for m in loss_metrics(start, end)}
    assert metrics["loss_drop_share"].value == pytest.approx(0.2) and metrics["loss_drop_share"].slice == "t2a"
    assert metrics["loss_rise_share"].value == pytest.approx(0.25) and metrics["loss_rise_share"].slice == "a2t"


def test_b1_fails_each_loss_that_went_the_wrong_way():
    n, tasks = 40, ("a2t", "i2t", "t2a", "t2i")
    start = {task: [4.0] * n for task in tasks}
    good = {"a2t": [4.0] * n, "i2t": [3.9] * n, "t2a": [2.0] * n, "t2i": [3.5] * n}

    def b1(end=good, start=start):
        return judged("B1", completed("B1", loss_metrics(start, {**good, **end})))

    assert b1().verdict == "GO"
    assert failing(b1({"i2t": [4.5] * n})) == {"read_holds [i2t]"}
    assert failing(b1({"t2i": [3.7] * n})) == {"falls [t2i]"}
    stopped = b1(start={})
    assert stopped.verdict == "CANNOT_DECIDE" and len(undecided(stopped)) == 4


def test_a_run_that_stopped_before_the_ramps_end_has_no_fall_to_report():
    metrics = {m.name: m for m in loss_metrics({}, {"t2a": [1.0]})}
    assert metrics["loss_drop_share"].value is None and metrics["loss_drop_share"].n == 0


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    hits = 0
    for seed in range(200):
        low, high = interval(np.random.default_rng(seed).normal(0.3, 1.0, 40), seed)
        hits += low <= 0.3 <= high
    assert 175 <= hits <= 199
    assert interval(np.ones(1), 0) == (None, None)
