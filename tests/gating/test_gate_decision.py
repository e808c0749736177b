"""Verdict files, forgery, waivers, baselines, history and the decision with its exit code."""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import replace

import pytest

from mmpt.gating import (
    Accepted,
    accept,
    decide,
    evaluate_gate,
    load_policy,
    load_waivers,
    read_accepted,
    read_decision,
    read_history,
    read_verdict,
    require,
    waive,
)
from mmpt.gating.baselines import baseline_values
from mmpt.gating.verdicts import verdict_path
from mmpt.store.errors import Blocked, UserError
from mmpt.store.evidence import read_evidence
from tests.gating.gate_evidence import fixture, publish, publish_all, sign


def test_all_good_is_go(policy, root, profile):
    publish_all(root, policy)
    decision = decide(root, policy, profile)
    assert (decision.decision, decision.exit_code) == ("GO", 0)
    assert read_decision(root) == decision.body
    assert set(decision.body["digests"]["stages"]) == {gate.stage for gate in policy.gates.values()}


@pytest.mark.parametrize("gate_id", ["K1", "S1", "B2", "C3"])
def test_one_bad_gate_is_no_go(policy, root, gate_id):
    publish_all(root, policy)
    publish(root, policy.gate(gate_id).stage, gate_id, fixture(gate_id, "bad"))
    decision = decide(root, policy)
    assert (decision.decision, decision.exit_code) == ("NO-GO", 10)


def test_missing_evidence_cannot_be_decided_and_no_go_beats_it(policy, root):
    publish_all(root, policy, without=("S1",))
    assert decide(root, policy).exit_code == 20
    publish(root, "ablation", "B3", fixture("B3", "bad"))
    assert decide(root, policy).exit_code == 10


def test_nothing_at_all_cannot_be_decided(policy, root):
    assert decide(root, policy).exit_code == 20


def test_edited_evidence_is_not_the_published_file(policy, root):
    path = publish(root, "ablation", "B3", fixture("B3", "bad"))
    path.write_text(json.dumps(fixture("B3", "good")))
    verdict = evaluate_gate("B3", root, policy)
    assert verdict.verdict == "CANNOT_DECIDE" and "not the file that stage ablation published" in verdict.reason


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "evidence/1"}', '{"gate": NaN}'])
def test_broken_evidence_cannot_be_decided(policy, root, text):
    path = publish(root, "ablation", "B3", {})
    path.write_text(text)
    sign(root, "ablation")
    assert evaluate_gate("B3", root, policy).verdict == "CANNOT_DECIDE"


def test_evidence_of_another_gate_does_not_count(policy, root):
    publish(root, "ablation", "B3", {**fixture("C2", "good")})
    assert "for gate C2" in evaluate_gate("B3", root, policy).reason


def test_a_broken_manifest_cannot_be_decided(policy, root):
    publish(root, "ablation", "B3", fixture("B3", "good"))
    (root / "ablation" / "MANIFEST.sha256").write_bytes(b"\xff\xfe")
    assert evaluate_gate("B3", root, policy).verdict == "CANNOT_DECIDE"


def measured_chain(root):
    """shards -> train -> ablation, the last with good evidence for B3."""
    for stage in ("shards", "train"):
        (root / stage / "data").mkdir(parents=True)
        (root / stage / "data" / "weights").write_text(stage)
    sign(root, "shards")
    sign(root, "train", inputs=("shards",))
    publish(root, "ablation", "B3", fixture("B3", "good"))
    sign(root, "ablation", inputs=("train",))


def test_evidence_holds_only_for_the_artifacts_it_measured(policy, root):
    measured_chain(root)
    assert evaluate_gate("B3", root, policy).verdict == "GO"
    (root / "shards" / "data" / "weights").write_text("other")
    sign(root, "shards")
    verdict = evaluate_gate("B3", root, policy)
    assert verdict.verdict == "CANNOT_DECIDE" and "train was made from another shards" in verdict.reason


@pytest.mark.parametrize(
    ("stage", "file", "word"),
    [
        ("ablation", "receipt.json", "no readable receipt"),
        ("train", "MANIFEST.sha256", "gone"),
        ("train", "receipt.json", "train has no"),
    ],
)
def test_a_gap_in_the_chain_of_receipts_cannot_be_decided(policy, root, stage, file, word):
    measured_chain(root)
    (root / stage / file).unlink()
    verdict = evaluate_gate("B3", root, policy)
    assert verdict.verdict == "CANNOT_DECIDE" and word in verdict.reason


def test_an_edited_receipt_vouches_for_nothing(policy, root):
    measured_chain(root)
    path = root / "train" / "receipt.json"
    path.write_text(path.read_text().replace("artifact:shards", "artifact:corpus"))
    assert "receipt of stage train was edited" in evaluate_gate("B3", root, policy).reason


def test_a_forged_verdict_does_not_let_a_consumer_through(policy, root):
    publish(root, "shard_audit", "S3", fixture("S3", "good"))
    publish(root, "kernels", "K1", fixture("K1", "good"))
    require(root, ("S3", "K1"), policy)
    good = verdict_path(root, "S3").read_bytes()
    publish(root, "shard_audit", "S3", fixture("S3", "bad"))
    verdict_path(root, "S3").write_bytes(good)
    with pytest.raises(Blocked) as caught:
        require(root, ("S3", "K1"), policy)
    assert caught.value.gates == ("S3",) and "ids outside" in str(caught.value)
    assert read_verdict(root, "S3")["verdict"] == "NO_GO"


def test_a_verdict_is_rewritten_only_when_its_bytes_change(policy, root):
    publish(root, "kernels", "K1", fixture("K1", "good"))
    evaluate_gate("K1", root, policy)
    before = os.stat(verdict_path(root, "K1"))
    evaluate_gate("K1", root, policy)
    after = os.stat(verdict_path(root, "K1"))
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert len(read_history(root)) == 1


def test_history_appends_each_change_and_survives_a_torn_line(policy, root):
    for name in ("good", "good", "bad", "good"):
        publish(root, "kernels", "K1", fixture("K1", name))
        evaluate_gate("K1", root, policy)
    assert [(row["from"], row["to"]) for row in read_history(root)] == [
        ("", "GO"),
        ("GO", "NO_GO"),
        ("NO_GO", "GO"),
    ]
    path = root / "gates" / "history.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    publish(root, "kernels", "K1", fixture("K1", "bad"))
    evaluate_gate("K1", root, policy)
    assert [row["to"] for row in read_history(root)] == ["GO", "NO_GO", "NO_GO"]


def test_a_threshold_edit_decides_again_without_measuring(policy, root, profile, gates_folder):
    publish(root, "text_regression", "C3", fixture("C3", "good"))
    assert evaluate_gate("C3", root, policy).verdict == "GO"
    path = gates_folder / "policy.yaml"
    path.write_text(path.read_text().replace("threshold: 0.0198", "threshold: 0.001"))
    assert evaluate_gate("C3", root, load_policy(path, profile)).verdict == "NO_GO"


TODAY = datetime.date(2030, 5, 1)


def waived(root, gates_folder, profile, today=TODAY, strict=False, expires="2030-05-01"):
    """C3 fails and somebody answers for it."""
    path = gates_folder / "policy.yaml"
    publish(root, "text_regression", "C3", fixture("C3", "bad"))
    verdict = evaluate_gate("C3", root, load_policy(path, profile))
    failed = [{"id": one.id, "slice": one.slice, "value": one.value} for one in verdict.failing()]
    waive(
        gates_folder / "waivers.yaml",
        failed,
        gate="C3",
        subject=verdict.subject_digest,
        reason="text is not used here",
        owner="ada",
        expires=expires,
        today=TODAY,
    )
    return evaluate_gate("C3", root, load_policy(path, profile, today=today, strict=strict))


def test_a_waiver_lets_one_failure_pass_and_is_shown(root, gates_folder, profile):
    verdict = waived(root, gates_folder, profile)
    assert verdict.verdict == "GO_WAIVED" and verdict.good
    assert "ada" in next(one.note for one in verdict.checks if one.status == "waived")
    assert len(load_waivers(gates_folder / "waivers.yaml", TODAY)) == 1


def test_a_waiver_ends_after_its_day(root, gates_folder, profile):
    assert waived(root, gates_folder, profile, today=TODAY + datetime.timedelta(days=1)).verdict == "NO_GO"


def test_strict_ignores_waivers(root, gates_folder, profile):
    assert waived(root, gates_folder, profile, strict=True).verdict == "NO_GO"


@pytest.mark.parametrize("change", [{"subject": {"train": "a" * 64}}, {"worse": 0.1}])
def test_a_waiver_is_void_on_another_subject_and_on_a_worse_value(root, gates_folder, profile, change):
    waived(root, gates_folder, profile)
    evidence = fixture("C3", "bad")
    evidence["subject"] = change.get("subject", evidence["subject"])
    for one in evidence["metrics"]:
        if one["name"] == "nll_increase_nats":
            one["value"] += change.get("worse", 0)
            one["ci_high"] += change.get("worse", 0)
    publish(root, "text_regression", "C3", evidence)
    policy = load_policy(gates_folder / "policy.yaml", profile, today=TODAY)
    assert evaluate_gate("C3", root, policy).verdict == "NO_GO"
    assert decide(root, policy).body["unused_waivers"]


def test_gates_with_a_floor_cannot_be_waived(root, gates_folder, profile):
    failed = [{"id": "gap_swapped", "slice": "t2a", "value": 0.0}]
    with pytest.raises(UserError, match="floor"):
        waive(
            gates_folder / "waivers.yaml",
            failed,
            gate="B3",
            subject="a" * 64,
            reason="please please",
            owner="me",
            expires="2030-01-01",
            today=TODAY,
        )
    text = (gates_folder / "waivers.yaml").read_text()
    entry = {
        "gate": "B3",
        "check": "gap_swapped",
        "slice": "t2a",
        "subject": "a" * 64,
        "value": 0.0,
        "reason": "please please",
        "owner": "me",
        "expires": "2030-01-01",
    }
    (gates_folder / "waivers.yaml").write_text(text.replace("waivers: []", f"waivers: [{json.dumps(entry)}]"))
    with pytest.raises(UserError, match="floor"):
        load_policy(gates_folder / "policy.yaml", profile)


@pytest.mark.parametrize("expires", ["2030-02-31", "tomorrow", "2030-08-01", "9999-12-31"])
def test_a_waiver_needs_a_real_day_within_ninety(root, gates_folder, profile, expires):
    with pytest.raises(UserError):
        waived(root, gates_folder, profile, expires=expires)
    assert load_waivers(gates_folder / "waivers.yaml", TODAY) == ()


def accepted(gates_folder, policy, evidence, **changes) -> Accepted:
    values = baseline_values(policy.gate("S3"), evidence)
    fields = {
        "subject": "a" * 64,
        "evidence": "b" * 64,
        "owner": "me",
        "reason": "first run",
        "day": "2030-01-01",
    }
    one = Accepted("smoke", "S3", **(fields | changes), values=values)
    accept(gates_folder / "baselines.json", [one])
    return one


def test_an_accepted_baseline_is_held(root, gates_folder, profile, policy):
    path = publish(root, "shard_audit", "S3", fixture("S3", "good"))
    first = evaluate_gate("S3", root, policy)
    assert {one.status for one in first.checks if one.id == "psnr_baseline"} == {"not_applicable"}
    accepted(gates_folder, policy, read_evidence(path))
    evidence = fixture("S3", "good")
    for one in evidence["metrics"]:
        if one["name"] == "psnr_db":
            one["value"] -= 0.6
    publish(root, "shard_audit", "S3", evidence)
    verdict = evaluate_gate("S3", root, load_policy(gates_folder / "policy.yaml", profile))
    assert verdict.verdict == "NO_GO" and verdict.failing()[0].id == "psnr_baseline"


def test_a_metric_that_is_no_longer_measured_cannot_pass_its_baseline(root, gates_folder, profile, policy):
    accepted(gates_folder, policy, fixture("S3", "good"))
    evidence = fixture("S3", "good")
    evidence["metrics"] = [one for one in evidence["metrics"] if one["name"] != "psnr_db"]
    publish(root, "shard_audit", "S3", evidence)
    verdict = evaluate_gate("S3", root, load_policy(gates_folder / "policy.yaml", profile))
    assert verdict.verdict == "CANNOT_DECIDE" and "psnr_baseline [image]: no metric psnr_db" in verdict.reason


def test_baselines_are_read_as_they_were_accepted(gates_folder, policy):
    path = gates_folder / "baselines.json"
    assert read_accepted(path) == []
    one = accepted(gates_folder, policy, fixture("S3", "good"))
    assert read_accepted(path) == [one]
    other = accepted(gates_folder, policy, fixture("S3", "good"), owner="you")
    assert read_accepted(path) == [other], "the later one counts"


@pytest.mark.parametrize("old, new", [("24.1", "20.1"), ("first run", "other run"), ('"n": 128', '"n": 127')])
def test_a_baseline_edited_by_hand_is_refused(gates_folder, policy, old, new):
    accepted(gates_folder, policy, fixture("S3", "good"))
    path = gates_folder / "baselines.json"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match="profiles.smoke.S3: a baseline was edited"):
        load_policy(gates_folder / "policy.yaml")


def test_without_the_baselines_file_nothing_is_decided(gates_folder):
    (gates_folder / "baselines.json").unlink()
    with pytest.raises(UserError, match="the accepted baselines are missing"):
        load_policy(gates_folder / "policy.yaml")


def test_the_decision_is_deterministic_and_holds_no_time(policy, root, profile):
    publish_all(root, policy)
    decide(root, policy, profile)
    first = (root / "decision.json").read_bytes()
    (root / "decision.json").unlink()
    decide(root, replace(policy, today=datetime.date(2040, 1, 1)), profile)
    assert (root / "decision.json").read_bytes() == first


@pytest.mark.parametrize("reason", ["        ........", "12345678", "n. a. ..."])
def test_a_waiver_needs_a_reason_in_words(root, gates_folder, profile, reason):
    publish(root, "text_regression", "C3", fixture("C3", "bad"))
    failed = [{"id": "nll", "slice": "", "value": 0.5}]
    given = {"subject": "a" * 64, "owner": "ada", "expires": "2030-05-01", "today": TODAY}
    with pytest.raises(UserError, match="not a reason"):
        waive(gates_folder / "waivers.yaml", failed, gate="C3", reason=reason, **given)
    profile["gates"] = [{"gate": "C3", "check": "nll", "threshold": 0.5, "reason": reason}]
    with pytest.raises(UserError, match="not a reason"):
        load_policy(gates_folder / "policy.yaml", profile)


def test_a_waiver_written_by_hand_ends_within_ninety_days_too(root, gates_folder, profile):
    waived(root, gates_folder, profile)
    path = gates_folder / "waivers.yaml"
    path.write_text(path.read_text().replace("2030-05-01", "2030-07-31"))
    with pytest.raises(UserError, match="expected 2030-07-30 or earlier"):
        load_policy(gates_folder / "policy.yaml", profile, today=TODAY)
