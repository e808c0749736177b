"""Every gate passes its good evidence and fails its bad one, and every blocking check can fail."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from mmpt.gating import GATES_FOLDER, load_policy
from mmpt.gating.rules import index_metrics
from mmpt.gating.verdicts import decide_evidence
from mmpt.profile import load_profile
from tests.gating.gate_evidence import FIXTURES, fixture

PROFILE = {key: value for key, value in load_profile("smoke").data.items() if key != "gates"}
PROFILE["text"] = {**PROFILE["text"], "heldout_file": "a text of their own"}  # so that every check applies
BASELINES = {
    "S3": {
        "si_sdr_db": {"audio": 8.0},
        "log_mel_l1": {"audio": 0.41},
        "psnr_db": {"image": 24.0},
        "ssim": {"image": 0.86},
    }
}
POLICY = replace(load_policy(profile=PROFILE), baselines=BASELINES)
WARN_ONLY = {"T1"}


def judge(gate_id: str, evidence: dict):
    return decide_evidence(POLICY.gate(gate_id), evidence, POLICY, "0" * 64)


def checks(*severities: str):
    """(gate, check, slice) of each check of those severities, one a slice of the good evidence."""
    for gate in POLICY.gates.values():
        metrics = index_metrics(fixture(gate.id, "good"))
        for check in gate.checks:
            if check.severity in severities:
                there = sorted(part for name, part in metrics if name == check.metric)
                for part in there if check.each else check.slices:
                    yield pytest.param(gate.id, check, part, id=f"{gate.id}.{check.id}[{part}]")


def every_check():
    return checks("block")


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


def pushed(gate_id, check, part, bound: str, step: float = 1e-3):
    """The verdict on the good evidence with one metric moved to that side of its (warn_)bound; and the result."""
    evidence = fixture(gate_id, "good")
    good = result(judge(gate_id, evidence), check, part)
    metric = next(one for one in evidence["metrics"] if (one["name"], one["slice"]) == (check.metric, part))
    push(metric, check, getattr(good, bound), step)
    verdict = judge(gate_id, evidence)
    return verdict, result(verdict, check, part)


def result(verdict, check, part):
    return next(one for one in verdict.checks if one.id == check.id and one.slice == part)


@pytest.mark.parametrize(("gate_id", "check", "part"), list(checks("block")))
def test_every_blocking_check_fails_beyond_its_bound(gate_id, check, part):
    verdict, found = pushed(gate_id, check, part, "bound")
    assert found.status == ("cannot_decide" if check.on_fail == "cannot_decide" else "fail")
    assert verdict.verdict == ("CANNOT_DECIDE" if check.on_fail == "cannot_decide" else "NO_GO")


@pytest.mark.parametrize(("gate_id", "check", "part"), list(checks("warn")))
def test_every_warning_check_warns_beyond_its_bound(gate_id, check, part):
    verdict, found = pushed(gate_id, check, part, "bound")
    assert found.status == "warn" and verdict.verdict == "GO" and found in verdict.warnings()


def with_warn_bound():
    return [one for one in checks("block", "warn") if one.values[1].warn_threshold is not None]


@pytest.mark.parametrize(("gate_id", "check", "part"), with_warn_bound())
def test_between_the_two_bounds_it_warns_and_passes(gate_id, check, part):
    verdict, found = pushed(gate_id, check, part, "warn_bound")
    assert found.status == "warn" and verdict.verdict == "GO"
    assert pushed(gate_id, check, part, "warn_bound", step=0.0)[1].status == "pass"


def test_several_gates_have_two_bounds():
    assert {one.values[0] for one in with_warn_bound()} >= {"S3", "A3", "B2", "B3", "Q1"}


@pytest.mark.parametrize(("gate_id", "check", "part"), list(checks("block", "warn")))
def test_with_one_item_less_than_min_n_nothing_is_decided(gate_id, check, part):
    evidence = fixture(gate_id, "good")
    metric = next(one for one in evidence["metrics"] if (one["name"], one["slice"]) == (check.metric, part))
    metric["n"] = check.min_n
    assert result(judge(gate_id, evidence), check, part).status == "pass"
    if check.min_n:
        metric["n"] = check.min_n - 1
        found = result(judge(gate_id, evidence), check, part)
        assert found.status == "cannot_decide" and f"at least {check.min_n}" in found.note
        assert f"gate: {gate_id}, " in found.remedy


@pytest.mark.parametrize(("value", "status"), [(2e-17, "fail"), (0.0, "fail"), (2e-3, "pass")])
def test_a_gain_of_rounding_alone_is_none(value, status):
    """One caption for all media gave F1 2.1e-17 over swapped media (1.7e-17 .. 2.6e-17), and passed."""
    evidence = fixture("R1", "good")
    (metric,) = (
        one for one in evidence["metrics"] if (one["name"], one["slice"]) == ("caption_gain_over_swapped", "i2t")
    )
    metric.update(value=value, ci_low=0.8 * value, ci_high=1.2 * value)
    found = {(one.id, one.slice): one.status for one in judge("R1", evidence).checks}
    assert found["over_swapped", "i2t"] == status


@pytest.mark.parametrize(("gate_id", "check", "part"), [one for one in checks("block") if one.values[1].each])
def test_the_worst_slice_decides(gate_id, check, part):
    """All other slices far on the good side do not make up for one."""
    evidence = fixture(gate_id, "good")
    sign = 1 if check.rule == "min" else -1
    for one in evidence["metrics"]:
        if one["name"] == check.metric and one["slice"] != part:
            one["value"] = 0 if check.rule == "max" else one["value"] + sign * 1.0
    metric = next(one for one in evidence["metrics"] if (one["name"], one["slice"]) == (check.metric, part))
    push(metric, check, result(judge(gate_id, evidence), check, part).bound, 1e-3)
    verdict = judge(gate_id, evidence)
    assert verdict.verdict == "NO_GO" and [(one.id, one.slice) for one in verdict.failing()] == [(check.id, part)]


def named_slices():
    for one in checks("block", "warn"):
        _gate_id, check, part = one.values
        if check.each and any(name and (part == name or part.startswith(f"{name}.")) for name in check.slices):
            yield one


@pytest.mark.parametrize(("gate_id", "check", "part"), list(named_slices()))
def test_a_part_that_nobody_measured_does_not_pass_in_silence(gate_id, check, part):
    evidence = fixture(gate_id, "good")
    evidence["metrics"] = [one for one in evidence["metrics"] if (one["name"], one["slice"]) != (check.metric, part)]
    verdict = judge(gate_id, evidence)
    missing = [one for one in verdict.checks if one.id == check.id and one.status == "cannot_decide"]
    assert len(missing) == 1 and (part + ".").startswith(missing[0].slice + ".")
    blocks = any(
        one.severity == "block" and one.metric == check.metric and part in one.slices
        for one in POLICY.gate(gate_id).checks
    )
    assert verdict.verdict == ("CANNOT_DECIDE" if check.severity == "block" or blocks else "GO")


@pytest.mark.parametrize("gate_id", [gate.id for gate in POLICY.gates.values() if any(c.each for c in gate.checks)])
def test_checks_that_take_each_slice_name_what_must_be_there(gate_id):
    loose = [c.id for c in POLICY.gate(gate_id).checks if c.each and c.severity != "info" and c.slices == ("",)]
    assert not loose


def test_a_change_against_the_baseline_has_room_and_no_more():
    bounds = {
        "si_sdr_baseline": 7.0,
        "log_mel_baseline": 0.4305,
        "psnr_baseline": 23.5,
        "ssim_baseline": 0.84,
    }
    for check_id, bound in bounds.items():
        check = POLICY.gate("S3").check(check_id)
        (part,) = check.slices
        assert result(judge("S3", fixture("S3", "good")), check, part).bound == pytest.approx(bound)
        assert pushed("S3", check, part, "bound", step=-1e-4)[1].status == "pass"
        assert pushed("S3", check, part, "bound", step=1e-4)[1].status == "fail"


def test_an_accepted_metric_that_is_no_longer_measured_cannot_be_decided():
    evidence = fixture("S3", "good")
    evidence["metrics"] = [one for one in evidence["metrics"] if one["name"] != "psnr_db"]
    assert judge("S3", evidence).verdict == "CANNOT_DECIDE"
    free = replace(POLICY, baselines={})
    assert decide_evidence(free.gate("S3"), evidence, free, "0" * 64).verdict == "GO"


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
        if (spoil is no_interval and not check.rule.startswith("ci_")) or (
            spoil is nothing_measured and check.min_n == 0
        ):
            continue
        if spoil is remove and check.each:
            continue  # its slices are those that are there; none at all is the next test
        evidence = copy.deepcopy(fixture(gate_id, "good"))
        metric = next(one for one in evidence["metrics"] if (one["name"], one["slice"]) == (check.metric, part))
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
    evidence["metrics"] += [{**one, "value": 1.0} for one in evidence["metrics"] if one["name"] == "win_rate_swapped"]
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
    captions = [one for one in fixture("Q1", "good")["metrics"] if "caption" in one["name"]]
    evidence["metrics"] = [one for one in evidence["metrics"] if "caption" not in one["name"]] + captions
    next(one for one in evidence["metrics"] if one["name"] == "oracle_roundtrip_accuracy" and one["slice"] == "image")[
        "value"
    ] = 0.6
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
