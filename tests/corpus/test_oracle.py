"""The oracle: right on what the corpus makes, and wrong where the medium is."""

import numpy as np
import pytest

from mmpt.corpus import oracle
from mmpt.corpus.generated import ATTRIBUTES, generate_pictures, generate_sounds


@pytest.mark.parametrize("modality, generate", [("image", generate_pictures), ("audio", generate_sounds)])
def test_it_reads_every_combination(modality, generate):
    for item in generate(21, 432):
        assert oracle.read(modality, item.medium) == item.record["attributes"]


def test_chance_is_one_over_the_values():
    assert oracle.chance("place") == 1 / 5 and oracle.chance("loudness") == 1 / 2
    with pytest.raises(KeyError):
        oracle.chance("smell")


def test_a_picture_moved_or_recoloured_reads_as_moved_or_recoloured():
    item = next(i for i in generate_pictures(1, 60) if i.record["attributes"]["place"] == "left"
                and i.record["attributes"]["colour"] == "red")
    right = oracle.read_picture(item.medium[:, ::-1])
    blue = oracle.read_picture(item.medium[:, :, ::-1])
    assert right == {**item.record["attributes"], "place": "right"}
    assert blue == {**item.record["attributes"], "colour": "blue"}


def test_a_sound_reversed_or_turned_down_reads_so():
    item = next(i for i in generate_sounds(1, 400) if i.record["attributes"]["contour"] == "rising"
                and i.record["attributes"]["kind"] == "whistle" and i.record["attributes"]["loudness"] == "loud")
    assert oracle.read_sound(item.medium[::-1], 16_000) == {**item.record["attributes"], "contour": "falling"}
    assert oracle.read_sound(item.medium * 0.16, 16_000) == {**item.record["attributes"], "loudness": "quiet"}


def test_garbage_is_read_as_something_about_as_often_as_chance():
    rng = np.random.default_rng(0)
    for item in generate_sounds(3, 20) + generate_pictures(3, 20):
        modality = item.record["modality"]
        noise = rng.integers(0, 256, (48, 48, 3)).astype(np.uint8) if modality == "image" else rng.normal(0, 0.1, 16_000)
        read = oracle.read(modality, noise)
        assert all(read[name] in values for name, values in ATTRIBUTES[modality].items())


@pytest.mark.parametrize("modality, blank", [
    ("image", np.zeros((48, 48, 3), np.uint8)), ("audio", np.zeros(16_000)), ("audio", np.zeros(10))])
def test_a_blank_medium_is_no_error(modality, blank):
    assert set(oracle.read(modality, blank)) == set(ATTRIBUTES[modality])


def test_pictures_of_another_size_and_stereo_sounds_are_read():
    picture, sound = generate_pictures(4, 1)[0], generate_sounds(4, 1)[0]
    assert oracle.read_picture(picture.medium.repeat(2, 0).repeat(2, 1)) == picture.record["attributes"]
    assert oracle.read_sound(np.stack([sound.medium] * 2), 16_000) == sound.record["attributes"]
    with pytest.raises(ValueError, match="16000"):
        oracle.read_sound(sound.medium, 44_100)
