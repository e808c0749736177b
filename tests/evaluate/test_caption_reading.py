"""Free-running captions: what they state, and how they compare with captions of other media and with a blind one."""

from __future__ import annotations

import pytest

from mmpt.corpus.generated import ATTRIBUTES, generate_pictures, generate_sounds
from mmpt.evaluate import caption_reading as reading
from tests.gating.gate_evidence import completed, failing, judged

ITEMS = [one.record for one in generate_pictures(3, 40)]
SOUNDS = [one.record for one in generate_sounds(3, 40)]


def rows(texts, ended=True, items=ITEMS):
    kept = ("id", "caption", "attributes", "mentioned", "group")
    task = "i2t" if items is ITEMS else "a2t"
    return [
        {"task": task, "text": text, "ended": ended, **{key: one[key] for key in kept}}
        for one, text in zip(items, texts, strict=True)
    ]


OWN = [one["caption"] for one in ITEMS]
OTHERS = OWN[7:] + OWN[:7]


def values(made, prefix=""):
    metrics, shown = reading.attribute_metrics(made, prefix)
    return {(one.name, one.slice): one for one in metrics}, shown


def test_captions_of_their_own_media_are_right():
    found, shown = values(rows(OWN))
    assert shown == dict.fromkeys(ATTRIBUTES["image"], 1.0)
    assert found["caption_mean_accuracy", "i2t"].value == 1.0 and found["no_caption_rate", "i2t"].value == 0.0
    stated = [one for (name, _), one in found.items() if name == "caption_stated"]
    assert len(stated) == 5 and all(0.7 < one.value <= 1.0 and one.n == 40 for one in stated)
    assert found["caption_accuracy", "i2t.colour"].n == sum("colour" in one["mentioned"] for one in ITEMS)


def test_captions_of_other_media_are_right_as_often_as_chance():
    found, _ = values(rows(OTHERS))
    for name in ATTRIBUTES["image"]:
        chance = found["caption_chance", f"i2t.{name}"].value
        assert chance >= 1 / len(ATTRIBUTES["image"][name])
        assert abs(found["caption_accuracy", f"i2t.{name}"].value - chance) < 0.3


def test_captions_that_the_model_did_not_end_are_wrong_about_everything():
    found, shown = values(rows(OWN, ended=False))
    assert set(shown.values()) == {0.0} and found["no_caption_rate", "i2t"].value == 1.0
    assert found["caption_stated", "i2t.shape"].value == 0.0


def test_leaving_an_attribute_out_shows_as_not_stated_and_not_as_right():
    found, shown = values(rows([f"a {one['attributes']['shape']}." for one in ITEMS]))
    assert shown == {"shape": 1.0}
    assert found["caption_accuracy", "i2t.colour"].value is None and found["caption_accuracy", "i2t.colour"].n == 0
    assert found["caption_stated", "i2t.colour"].value == 0.0 and found["caption_mean_accuracy", "i2t"].value is None


def test_metrics_of_sampled_captions_have_names_of_their_own():
    found, _ = values(rows(OWN), "sampled_")
    assert {name for name, _ in found} == {
        f"sampled_{one}"
        for one in ("caption_accuracy", "caption_chance", "caption_stated", "caption_mean_accuracy", "no_caption_rate")
    }


def test_wrong_captions_are_named_with_what_is_wrong():
    texts = [*OWN[:-2], "Three and two make five.", "a red circle and a blue circle."]
    samples = reading.wrong_samples(rows(texts))
    assert [one["id"] for one in samples] == [one["id"] for one in ITEMS[-2:]]
    assert "'three'" in samples[0]["wrong"] and "colour" in samples[1]["wrong"]


def gains(texts, blind="zzz", ended=True):
    found = reading.word_gains(rows(texts, ended), blind, 300, 0)
    return {name: one.low for name, one in found.items()}


def test_own_captions_beat_those_of_other_media_and_a_blind_one():
    blind = reading.blind_caption(OWN)
    assert blind in OWN
    low = gains(OWN, blind)
    assert low["over_swapped"] > 0 and low["over_blind"] > 0


@pytest.mark.parametrize("texts", [OTHERS, ["a red circle at the left on a black background."] * 40, [""] * 40])
def test_captions_that_do_not_look_beat_neither(texts):
    low = gains(texts, reading.blind_caption(OWN))
    assert low["over_swapped"] <= 0.02 and low["over_blind"] <= 0


def test_captions_that_were_cut_off_have_no_words():
    assert gains(OWN, ended=False) == {"over_swapped": 0.0, "over_blind": 0.0}


def test_one_group_cannot_be_swapped():
    made = [{**one, "group": "g"} for one in rows(OWN)]
    assert reading.word_gains(made, "a", 300, 0) == {}


def q1(texts, prefix=""):
    """The verdict on captions of pictures, beside right ones of sounds."""
    sounds = rows([one["caption"] for one in SOUNDS], items=SOUNDS)
    metrics = [one for made in (rows(texts), sounds) for one in reading.attribute_metrics(made, prefix)[0]]
    return judged("Q1", completed("Q1", metrics, least_n=64))


@pytest.mark.parametrize("prefix", ["", "sampled_"])
def test_gate_q1_passes_right_captions_and_stops_those_of_other_media(prefix):
    assert q1(OWN, prefix).verdict == "GO"
    failed = failing(q1(OTHERS, prefix))
    assert f"{prefix}captions_mean [i2t]" in failed and f"{prefix}captions [i2t.colour]" in failed
    assert all("i2t" in name for name in failed)


def test_gate_q1_stops_replay_text_and_captions_that_say_little():
    replay = failing(q1(["Anna has a small red cup, and she keeps her cup in the kitchen."] * 40))
    assert {f"captions [i2t.{name}]" for name in ATTRIBUTES["image"]} <= replay
    little = failing(q1([f"a {one['attributes']['shape']}." for one in ITEMS]))
    assert little == {f"stated [i2t.{name}]" for name in ATTRIBUTES["image"] if name != "shape"}


def r1(texts):
    """The verdict on captions of pictures, beside right ones of sounds."""
    blind = reading.blind_caption(OWN)
    sounds = rows([one["caption"] for one in SOUNDS], items=SOUNDS)
    gains = {"i2t": reading.word_gains(rows(texts), blind, 300, 0), "a2t": reading.word_gains(sounds, "a", 300, 0)}
    metrics = [one for task, found in gains.items() for one in reading.gain_metrics(found, task)]
    return judged("R1", completed("R1", metrics, least_n=64))


def test_gate_r1_stops_captions_that_do_not_look():
    assert r1(OWN).verdict == "GO"
    assert failing(r1(OTHERS)) == {"over_swapped [i2t]", "over_blind [i2t]"}
    assert failing(r1([reading.blind_caption(OWN)] * 40)) == {"over_swapped [i2t]", "over_blind [i2t]"}
