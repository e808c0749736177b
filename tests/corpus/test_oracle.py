"""The oracle: right on what the corpus makes, and wrong where the medium is."""

import numpy as np
import pytest

from mmpt.codecs.media import convert
from mmpt.corpus import oracle
from mmpt.corpus.generated import ATTRIBUTES, generate_pictures, generate_sounds


@pytest.mark.parametrize("modality, generate", [("image", generate_pictures), ("audio", generate_sounds)])
def test_it_reads_what_the_corpus_makes(modality, generate):
    items = generate(21, 360)
    assert len({item.record["group"] for item in items}) > 200
    for item in items:
        assert oracle.read(modality, item.medium) == item.record["attributes"]


def test_chance_is_one_over_the_values():
    assert oracle.chance("place") == 1 / 5 and oracle.chance("loudness") == 1 / 2
    with pytest.raises(KeyError):
        oracle.chance("smell")


def test_a_picture_moved_or_recoloured_reads_as_moved_or_recoloured():
    item = next(
        i
        for i in generate_pictures(1, 60)
        if i.record["attributes"]["place"] == "left" and i.record["attributes"]["colour"] == "red"
    )
    right = oracle.read_picture(item.medium[:, ::-1])
    blue = oracle.read_picture(item.medium[:, :, ::-1])
    assert right == {**item.record["attributes"], "place": "right"}
    assert blue == {**item.record["attributes"], "colour": "blue"}


def test_a_sound_reversed_or_turned_down_reads_so():
    wanted = {"contour": "rising", "kind": "whistle", "loudness": "loud"}
    item = next(i for i in generate_sounds(1, 200) if wanted.items() <= i.record["attributes"].items())
    assert oracle.read_sound(item.medium[::-1], 16_000) == {**item.record["attributes"], "contour": "falling"}
    assert oracle.read_sound(item.medium * 0.2, 16_000) == {**item.record["attributes"], "loudness": "quiet"}


@pytest.mark.parametrize("modality, generate", [("image", generate_pictures), ("audio", generate_sounds)])
def test_media_of_other_records_score_near_chance(modality, generate):
    items = generate(3, 150)
    for name, values in ATTRIBUTES[modality].items():
        read = [oracle.read(modality, item.medium)[name] for item in items]
        other = [item.record["attributes"][name] for item in items[1:] + items[:1]]
        right = np.mean([a == b for a, b in zip(read, other, strict=True)])
        assert abs(right - 1 / len(values)) < 0.15


def test_noise_is_read_as_something():
    rng = np.random.default_rng(0)
    noise = {"image": rng.integers(0, 256, (48, 48, 3)).astype(np.uint8), "audio": rng.normal(0, 0.1, 16_000)}
    for modality, attributes in ATTRIBUTES.items():
        read = oracle.read(modality, noise[modality])
        assert all(read[name] in values for name, values in attributes.items())


@pytest.mark.parametrize(
    "modality, blank",
    [("image", np.zeros((48, 48, 3), np.uint8)), ("audio", np.zeros(16_000)), ("audio", np.zeros(10))],
)
def test_a_blank_medium_is_no_error(modality, blank):
    assert set(oracle.read(modality, blank)) == set(ATTRIBUTES[modality])


def test_pictures_of_another_size_and_stereo_sounds_are_read():
    picture, sound = generate_pictures(4, 1)[0], generate_sounds(4, 1)[0]
    assert oracle.read_picture(picture.medium.repeat(2, 0).repeat(2, 1)) == picture.record["attributes"]
    assert oracle.read_sound(np.stack([sound.medium] * 2), 16_000) == sound.record["attributes"]


@pytest.mark.parametrize("rate", [24_000, 48_000])
def test_a_codecs_own_rate_reads_as_well(rate):
    right = []
    for item in generate_sounds(5, 60):
        read = oracle.read_sound(convert(np.atleast_2d(item.medium), 16_000, rate, 2), rate)
        right += [read[name] == value for name, value in item.record["attributes"].items()]
    assert np.mean(right) >= 0.99
