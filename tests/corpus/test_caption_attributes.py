"""The caption parser: right on every caption of the corpus, and not to be talked round."""

import pytest

from mmpt.corpus.caption_attributes import read_caption
from mmpt.corpus.generated import generate_pictures, generate_sounds
from mmpt.corpus.text import generate_sentences

CIRCLE = {"shape": "circle", "colour": "red", "size": "small", "place": "left", "background": "black"}
BUZZ = {"kind": "buzz", "pitch": "low", "contour": "rising", "count": "two", "loudness": "loud"}


@pytest.mark.parametrize("modality, generate", [("image", generate_pictures), ("audio", generate_sounds)])
def test_every_caption_of_the_corpus_states_what_it_mentions(modality, generate):
    for item in generate(8, 150):
        record = item.record
        reading = read_caption(modality, record["caption"])
        assert reading.fault == "" and not reading.unclear, record["caption"]
        assert reading.stated == {name: record["attributes"][name] for name in record["mentioned"]}


def test_no_sentence_of_the_replay_text_is_a_caption():
    for sentence in generate_sentences(4, 2000):
        for modality in ("image", "audio"):
            assert read_caption(modality, sentence).fault, sentence


@pytest.mark.parametrize("modality, generate", [("audio", generate_pictures), ("image", generate_sounds)])
def test_a_caption_of_the_other_modality_is_none(modality, generate):
    for item in generate(8, 40):
        assert read_caption(modality, item.record["caption"]).fault


@pytest.mark.parametrize(
    "text, stated, unclear",
    [
        ("a small circle that is not red.", {"size": "small", "shape": "circle"}, {"colour"}),
        ("a small blue circle, not a cross.", {"size": "small", "colour": "blue", "shape": "circle"}, set()),
        ("there is no red circle but a blue cross.", {"colour": "blue", "shape": "cross"}, set()),
        ("a shape that is neither red nor blue and at the left.", {"place": "left"}, {"colour"}),
        ("a red circle, and it isn\u2019t red.", {"shape": "circle"}, {"colour"}),
        ("a red circle without a background that is white.", {"shape": "circle", "colour": "red"}, {"background"}),
    ],
)
def test_what_is_denied_is_not_stated(text, stated, unclear):
    reading = read_caption("image", text)
    assert reading.fault == "" and reading.stated == stated and reading.unclear == unclear


@pytest.mark.parametrize(
    "text, unclear",
    [
        ("a red circle and a blue circle.", {"colour"}),
        ("a red or green circle.", {"colour"}),
        ("a red circle at the left. a red cross at the right.", {"shape", "place"}),
        ("circle triangle cross red green blue yellow small large.", {"shape", "colour", "size"}),
    ],
)
def test_two_values_of_an_attribute_state_none(text, unclear):
    reading = read_caption("image", text)
    assert reading.unclear == unclear and not set(reading.stated) & unclear
    assert not any(reading.hits(CIRCLE)[name] for name in unclear)


def test_a_list_of_all_values_of_a_sound_is_right_about_none():
    listed = "one two three low medium high rising falling steady quiet loud whistle buzz hiss bell."
    assert read_caption("audio", listed).hits(BUZZ) == dict.fromkeys(BUZZ, False)


@pytest.mark.parametrize(
    "text, ended, why",
    [
        ("", True, "empty"),
        (" ...", True, "empty"),
        ("a small red circle at the left on a black background.", False, "without an end"),
        ("Three and two make seven.", True, "'three'"),
        ("a small red", True, "no shape"),
        ("a red dog barks at the left.", True, "'dog'"),
        ("a small red circle at the left. Ben had two cups.", True, "'ben'"),
        ("a red circcle at the left.", True, "'circcle'"),
    ],
)
def test_what_is_no_caption_is_wrong_about_everything(text, ended, why):
    reading = read_caption("image", text, ended=ended)
    assert why in reading.fault
    assert reading.hits(CIRCLE) == dict.fromkeys(CIRCLE, False)


def test_what_is_left_out_is_neither_right_nor_wrong():
    assert read_caption("image", "a red circle.").hits(CIRCLE) == {"shape": True, "colour": True}
    assert read_caption("image", "a blue circle.").hits(CIRCLE) == {"shape": True, "colour": False}
    assert read_caption("audio", "We hear two LOUD buzzes").hits(BUZZ) == {
        "count": True,
        "loudness": True,
        "kind": True,
    }
    assert read_caption("audio", "some sounds at a high pitch.").hits(BUZZ) == {"pitch": False}
