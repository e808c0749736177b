"""The generated corpus: what a seed fixes, what captions say, and what the splits share."""

import numpy as np
import pytest

from mmpt.corpus.generated import (
    ATTRIBUTES,
    HELD_OUT,
    MIN_MENTIONED,
    generate_pictures,
    generate_sounds,
    split_combinations,
)
from mmpt.corpus.pictures import CELL, CENTRE, RADIUS, RGB, STARS, coverage
from mmpt.corpus.sounds import BEAT_SECONDS, RMS, SOUND_RATE, TICK_RMS
from mmpt.corpus.text import generate_sentences

GENERATE = {"image": generate_pictures, "audio": generate_sounds}
MODALITIES = sorted(GENERATE)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_seed_gives_the_same_records_and_media(modality):
    first, again, other = (GENERATE[modality](seed, 12) for seed in (3, 3, 4))
    assert [item.record for item in first] == [item.record for item in again]
    assert all(np.array_equal(a.medium, b.medium) for a, b in zip(first, again, strict=True))
    assert [item.record["caption"] for item in first] != [item.record["caption"] for item in other]


@pytest.mark.parametrize("modality", MODALITIES)
def test_no_combination_is_in_two_splits_and_all_are_dealt(modality):
    dealt = split_combinations(modality, 7, val=0.07, test=0.2)
    everything = [combination for combinations in dealt.values() for combination in combinations]
    assert len(everything) == len(set(everything)) == np.prod([len(v) for v in ATTRIBUTES[modality].values()])
    assert len(dealt["test"]) == round(0.2 * len(everything))
    assert len(dealt["val"]) == round(0.07 * len(everything))


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("seed", range(5))
def test_train_has_each_held_out_combination_but_for_one_attribute(modality, seed):
    dealt = split_combinations(modality, seed, val=0.07, test=0.2)
    for combination in dealt["test"] + dealt["val"]:
        for left_out in range(len(combination)):
            rest = [(i, value) for i, value in enumerate(combination) if i != left_out]
            assert any(all(seen[i] == value for i, value in rest) for seen in dealt["train"])


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("seed", range(3))
def test_every_value_of_an_attribute_is_held_out_as_often_as_any_other(modality, seed):
    held_out = split_combinations(modality, seed, val=0.05, test=0.12)["test"]
    for name, values in zip(ATTRIBUTES[modality], zip(*held_out, strict=True), strict=True):
        counts = [values.count(value) for value in ATTRIBUTES[modality][name]]
        assert max(counts) - min(counts) <= 2, name


@pytest.mark.parametrize("modality", MODALITIES)
def test_records_follow_the_split_of_their_combination(modality):
    dealt = split_combinations(modality, 5, val=0.07 * HELD_OUT, test=0.2 * HELD_OUT)
    for item in GENERATE[modality](5, 100):
        record = item.record
        assert tuple(record["attributes"].values()) in dealt[record["split_hint"]]
        assert record["group"] == f"{modality}:" + "/".join(record["attributes"].values())


@pytest.mark.parametrize("modality", MODALITIES)
def test_shares_are_kept(modality):
    splits = [item.record["split_hint"] for item in GENERATE[modality](5, 100, val=0.1, test=0.3)]
    assert [splits.count(name) for name in ("train", "val", "test")] == [60, 10, 30]


def test_a_sound_goes_on_after_its_last_event():
    beat = round(BEAT_SECONDS * SOUND_RATE)
    for item in generate_sounds(5, 60):
        assert np.sqrt(np.mean(item.medium[-beat:] ** 2)) <= TICK_RMS < RMS["quiet"]
        assert len(item.medium) % beat == 0


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_caption_says_what_it_mentions_and_nothing_else(modality):
    values = {value for options in ATTRIBUTES[modality].values() for value in options}
    partial = 0
    for item in GENERATE[modality](11, 120):
        record = item.record
        said = {record["attributes"][name] for name in record["mentioned"]}
        words = record["caption"].rstrip(".").split()
        found = {value for value in values for word in words if word in (value, value + "s", value + "es")}
        assert found == said
        assert MIN_MENTIONED <= len(record["mentioned"]) <= len(record["attributes"])
        partial += len(record["mentioned"]) < len(record["attributes"])
    assert partial > 12


def test_files_of_one_combination_differ():
    for modality in MODALITIES:
        items = GENERATE[modality](2, 400)
        media = {item.medium.tobytes() for item in items}
        assert len(media) == 400 > len({item.record["group"] for item in items})


def test_stars_lie_on_the_ground_beside_the_shape():
    for item in generate_pictures(6, 40):
        said, pixels = item.record["attributes"], item.medium.astype(int)
        shape = coverage(said["shape"], CENTRE[said["place"]], RADIUS[said["size"]]) > 0
        marked = (abs(pixels - RGB[said["background"]]).max(axis=2) > 10) & ~shape
        cells = {(row // CELL, column // CELL) for row, column in np.argwhere(marked)}
        touched = {(row // CELL, column // CELL) for row, column in np.argwhere(shape)}
        assert STARS[0] <= len(cells) <= STARS[1] and not cells & touched, item.record["id"]


def test_text_has_a_sentence_of_its_own_for_every_word_that_gives_an_attribute():
    words = " ".join(generate_sentences(0, 4000)).lower().replace(".", " ").replace(",", " ").split()
    for attributes in ATTRIBUTES.values():
        for value in (value for values in attributes.values() for value in values):
            assert words.count(value) >= 20, value


def test_media_have_their_declared_form():
    picture, sound = generate_pictures(0, 1)[0].medium, generate_sounds(0, 1)[0].medium
    assert picture.shape == (48, 48, 3) and picture.dtype == np.uint8
    assert sound.ndim == 1 and sound.dtype == np.float32
    lengths = {len(one.medium) for one in generate_sounds(0, 60)}
    assert all(length % 1_600 == 0 and 4_800 <= length <= 16_000 for length in lengths) and len(lengths) >= 6, lengths
    assert all(abs(item.medium).max() < 0.999 for item in generate_sounds(0, 216))


def test_sentences_are_fixed_by_the_seed_and_differ_between_seeds():
    assert generate_sentences(1, 50) == generate_sentences(1, 60)[:50]
    assert len(set(generate_sentences(1, 200)) & set(generate_sentences(2, 200))) < 150
    assert all(sentence[0].isupper() and sentence[-1] == "." for sentence in generate_sentences(3, 200))
