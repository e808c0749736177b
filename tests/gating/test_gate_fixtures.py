"""Every gate passes its good evidence and fails its bad one, and every blocking check can fail."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
from tests.gating.gate_evidence import FIXTURES, fixture

from mmpt.gating import GATES_FOLDER, load_policy
from mmpt.gating.rules import index_metrics
from mmpt.gating.verdicts import decide_evidence
from mmpt.profile import load_profile

PROFILE = {key: value for key, value in load_profile("smoke").data.items() if key != "gates"}
BASELINES = {
    "S3": {
        "si_sdr_db": {"audio": 8.0},
        "log_mel_l1": {"audio": 0.41},
        "psnr_db": {"image": 24.0},
        "ssim": {"image": 0.86},
    }
}
POLICY = replace(load_policy(profile=PROFILE), baselines=BASELINES)
WARN_ONLY = {"Q2", "T1"}


def judge(gate_id: str, evidence: dict):
    return decide_evidence(POLICY.gate(gate_id), evidence, POLICY, "0" * 64)


def every_check():
    for gate in POLICY.gates.values():
        for check in gate.checks:
            if check.severity == "block":
                metrics = index_metrics(fixture(gate.id, "good"))
                parts = (
                    sorted(part for name, part in metrics if name == check.metric)
                    if check.each
                    else check.slices
                )
                yield from (
                    pytest.param(gate.id, check, part, id=f"{gate.id}.{check.id}[{part}]") for part in parts
                )


def test_every_gate_has_a_script_and_fixtures():
    scripts = {path.stem.split("_")[0].upper() for path in GATES_FOLDER.glob("*.py")}
    assert scripts == set(POLICY.gates) == {path.name for path in FIXTURES.iterdir()}


@pytest.mark.parametrize("gate_id", POLICY.gates)
def test_good_and_bad_evidence_disagree(gate_id):
    good, bad = judge(gate_id, fixture(gate_id, "good")), judge(gate_id, fixture(gate_id, "bad"))
    assert good.verdict == "GO", good.reason
    if gate_id in WARN_ONLY:
        assert not [one for one in good.checks if one.status == "warn"]
        assert [one for one in bad.checks if one.status == "warn"]
    else:
        assert bad.verdict == "NO_GO"


def push(metric: dict, check, bound: float, step: float) -> None:
    """Move a metric away from the good side, interval and all."""
    down = check.rule in ("min", "ci_low_above")
    edge = {
        "ci_low_above": metric["ci_low"],
        "ci_high_max": metric["ci_high"],
        "ci_high_below": metric["ci_high"],
    }
    now = edge.get(check.rule, metric["value"])
    shift = (bound - step if down else bound + step) - now
    for key in ("value", "ci_low", "ci_high"):
        if metric[key] is not None:
            metric[key] += shift


@pytest.mark.parametrize(("gate_id", "check", "part"), list(every_check()))
def test_every_blocking_check_fails_beyond_its_bound(gate_id, check, part):
    evidence = fixture(gate_id, "good")
    good = judge(gate_id, evidence)
    bound = next(one.bound for one in good.checks if one.id == check.id and one.slice == part)
    metric = next(one for one in evidence["metrics"] if (one["name"], one["slice"]) == (check.metric, part))
    push(metric, check, bound, step=1e-3)
    verdict = judge(gate_id, evidence)
    status = next(one.status for one in verdict.checks if one.id == check.id and one.slice == part)
    assert status == ("cannot_decide" if check.on_fail == "cannot_decide" else "fail")
    assert not verdict.good


def remove(metric, evidence):
    evidence["metrics"].remove(metric)


def not_a_number(metric, evidence):
    metric["value"] = float("nan")


def null(metric, evidence):
    metric["value"] = None


def no_interval(metric, evidence):
    metric["ci_low"] = metric["ci_high"] = None


def nothing_measured(metric, evidence):
    metric["n"] = 0


@pytest.mark.parametrize("spoil", [remove, not_a_number, null, no_interval, nothing_measured])
def test_what_was_not_measured_cannot_be_decided(spoil):
    undecided = 0
    for gate_id, check, part in (one.values for one in every_check()):
        if (
            spoil is no_interval
            and not check.rule.startswith("ci_")
            or spoil is nothing_measured
            and check.min_n == 0
        ):
            continue
        if spoil is remove and check.each:
            continue  # its slices are those that are there; none at all is the next test
        evidence = copy.deepcopy(fixture(gate_id, "good"))
        metric = next(
            one for one in evidence["metrics"] if (one["name"], one["slice"]) == (check.metric, part)
        )
        spoil(metric, evidence)
        verdict = judge(gate_id, json.loads(json.dumps(evidence)))
        assert verdict.verdict == "CANNOT_DECIDE", (gate_id, check.id, part)
        undecided += 1
    assert undecided > 10


def test_no_slice_at_all_cannot_be_decided():
    evidence = fixture("Q1", "good")
    evidence["metrics"] = [one for one in evidence["metrics"] if one["name"] != "accuracy"]
    assert judge("Q1", evidence).verdict == "CANNOT_DECIDE"


def test_one_metric_twice_cannot_be_decided():
    evidence = fixture("B3", "bad")
    evidence["metrics"] += [
        {**one, "value": 1.0} for one in evidence["metrics"] if one["name"] == "win_rate_swapped"
    ]
    assert judge("B3", evidence).verdict == "CANNOT_DECIDE"


def test_a_negative_count_is_no_pass():
    evidence = fixture("C1", "good")
    next(one for one in evidence["metrics"] if one["name"] == "ids_out_of_range")["value"] = -1
    assert judge("C1", evidence).verdict == "CANNOT_DECIDE"


def test_a_failure_beats_what_cannot_be_decided():
    evidence = fixture("B3", "bad")
    next(one for one in evidence["metrics"] if one["name"] == "gap_empty_nats")["value"] = None
    assert judge("B3", evidence).verdict == "NO_GO"


def test_an_untrusted_oracle_decides_nothing():
    evidence = fixture("Q1", "bad")
    next(
        one
        for one in evidence["metrics"]
        if one["name"] == "oracle_roundtrip_accuracy" and one["slice"] == "image"
    )["value"] = 0.6
    verdict = judge("Q1", evidence)
    assert verdict.verdict == "CANNOT_DECIDE"
    notes = {(one.id, one.slice): one.note for one in verdict.checks}
    assert notes["attributes", "image.colour"] == "rests on check oracle"
    assert notes["attributes", "audio.kind"] == ""


def test_attribute_bound_is_the_stricter_of_floor_and_chance():
    evidence = fixture("Q1", "good")
    for one in evidence["metrics"]:
        if one["name"] == "chance" and one["slice"] == "image.shape":
            one["value"] = 0.5
    bounds = {one.slice: one.bound for one in judge("Q1", evidence).checks if one.id == "attributes"}
    assert bounds["image.shape"] == pytest.approx(0.8)
    assert bounds["image.colour"] == pytest.approx(0.6)


def test_reading_is_held_against_its_own_warm_up():
    evidence = fixture("R1", "good")
    for one in evidence["metrics"]:
        if one["name"] == "gap_after_warmup_nats":
            one["value"] = 1.5
    verdict = judge("R1", evidence)
    assert verdict.verdict == "NO_GO"
    assert {one.id for one in verdict.checks if one.status == "fail"} == {"kept"}
