"""One diagnosis over all gates: which kind of failure, which proposal, and what it conflicts with."""

import copy

import pytest
import yaml

from mmpt.build.commands_advise import advice_lines, next_profile
from mmpt.profile import load_profile
from mmpt.report.diagnosis import Facts, diagnose, proposal

PROFILE = load_profile("smoke")
FALLING = {task: [(0, 5.0), (450, 1.0), (900, 0.5)] for task in ("a2t", "i2t", "t2a", "t2i")}
LEVEL = {task: [(0, 5.0), (450, 0.5), (900, 0.495)] for task in ("a2t", "i2t", "t2a", "t2i")}


def check(gate, name, part="", status="fail", severity="block", value=0.1, bound=0.2, n=256, min_n=256):
    return {"gate": gate, "id": name, "slice": part, "status": status, "severity": severity} | {
        "value": value,
        "bound": bound,
        "n": n,
        "min_n": min_n,
    }


def facts(*checks, metrics=None, validation=None, records=None, profile=PROFILE.data):
    return Facts(profile, checks, metrics or {}, validation or LEVEL, records or {"audio": 1500, "image": 1500})


def kinds(found):
    return [one.kind for one in found]


def test_a_run_that_passes_has_no_diagnosis():
    assert diagnose(facts(check("B3", "win_empty", "t2a", status="pass"), validation=FALLING)) == []


def test_a_rising_validation_loss_is_overfitting_although_single_gates_ask_for_more_steps():
    rising = {**LEVEL, "t2a": [(0, 6.0), (450, 2.0), (900, 3.1)]}
    found = diagnose(facts(check("B1", "beats_unigram", "t2a"), check("C3", "nll"), validation=rising))
    assert kinds(found) == ["overfitting", "text_forgotten", "unbalanced"]
    changes = proposal(found)
    assert changes["train.steps"] == 450 and changes["train.lr.lora"] < PROFILE.data["train"]["lr"]["lora"]
    assert "more records" in found[0].needs and any("B3" in line for line in found[0].conflicts)


def test_a_loss_that_still_falls_is_too_little_training():
    found = diagnose(facts(check("B3", "win_swapped", "t2a"), check("B3", "win_swapped", "t2i"), validation=FALLING))
    assert kinds(found) == ["underfitting"] and proposal(found) == {"train.steps": 2 * PROFILE.data["train"]["steps"]}


def test_overfitting_is_never_answered_with_more_steps():
    both = {**FALLING, "t2a": [(0, 6.0), (450, 2.0), (900, 3.0)]}
    found = diagnose(facts(check("B3", "win_swapped", "t2a"), check("B3", "win_swapped", "t2i"), validation=both))
    assert kinds(found)[:2] == ["overfitting", "underfitting"] and proposal(found)["train.steps"] == 450


@pytest.mark.parametrize(("total", "kind"), [(400, "needs"), (1000, "share")])
def test_too_few_items_says_how_many_records_are_missing(total, kind):
    records = {"audio": 1500, "image": total}
    found = diagnose(facts(check("B3", "groups", "t2i", "cannot_decide", n=int(0.18 * total)), records=records))
    assert kinds(found) == ["too_few_items"]
    if kind == "needs":
        assert found[0].needs.startswith("454 more pictures") and not found[0].changes  # 256 of 854 are 30 %
    else:
        assert found[0].changes["split.test"] * total >= 256 and "training gets fewer" in found[0].conflicts[0]


def test_a_codec_that_loses_the_subject_comes_before_any_training_setting():
    found = diagnose(
        facts(check("S3", "reconstruction", "image"), check("B3", "win_swapped", "t2i"), validation=FALLING)
    )
    assert kinds(found)[0] == "codec"
    assert found[0].changes == {"codecs.image.codebook_size": 2 * PROFILE.data["codecs"]["image"]["codebook_size"]}


def test_a_published_codec_is_not_given_a_size_it_does_not_have():
    profile = copy.deepcopy(dict(PROFILE.data))
    profile["codecs"]["audio"] = {"name": "encodec", "path": "/w", "clip_seconds": 10}
    (found,) = diagnose(facts(check("S3", "reconstruction", "audio"), profile=profile))
    assert not found.changes and "codecs.audio" in found.needs


@pytest.mark.parametrize(
    ("one", "kind", "key"),
    [
        (check("B2", "grad_norm"), "diverged", "train.lr.lora"),
        (check("C3", "nll"), "text_forgotten", "mixture.text_replay"),
        (check("W1", "gap", "i2t"), "reading", "warmup.steps"),
        (check("B3", "win_empty", "t2i"), "unbalanced", "mixture.weights.t2i"),
        (check("B4", "constant", "t2i"), "collapse", "train.lr.embed"),
    ],
)
def test_each_kind_has_its_sign_and_its_proposal(one, kind, key):
    found = diagnose(facts(one))
    assert kind in kinds(found) and key in proposal(found)


def test_the_written_profile_loads_and_states_only_what_changes(tmp_path):
    target = tmp_path / "next.yaml"
    found = diagnose(facts(check("C3", "nll"), check("W1", "gap", "i2t")))
    target.write_text(next_profile(PROFILE, target, proposal(found)))
    assert set(yaml.safe_load(target.read_text())) == {"extends", "name", "mixture", "train", "warmup"}
    loaded = load_profile(str(target)).data
    assert loaded["mixture"]["text_replay"] > PROFILE.data["mixture"]["text_replay"] and loaded["name"] == "smoke-next"
    lines = advice_lines("NO-GO", found, proposal(found))
    assert lines[0] == "NO-GO" and any(line.startswith("   conflict: ") for line in lines) and "proposal" in lines
