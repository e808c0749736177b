"""Near duplicates: a medium that was saved again is found, another medium is not; the split keeps them together."""

import io
from itertools import product

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmpt.corpus.fingerprints import NONE, near_duplicates, near_pairs, picture_fingerprint, sound_fingerprint
from mmpt.corpus.pictures import PICTURE_ATTRIBUTES, draw_picture
from mmpt.corpus.sounds import SOUND_ATTRIBUTES, play_sound
from mmpt.corpus.split import deal, s2_metrics
from mmpt.stages.split import different

RATE = 16_000


def combinations(attributes, make):
    names, values = list(attributes), product(*attributes.values())
    return [make(dict(zip(names, one, strict=True)), np.random.default_rng(i)) for i, one in enumerate(values)]


@pytest.fixture(scope="module")
def drawings():
    """All 360 drawings of the generated corpus."""
    return combinations(PICTURE_ATTRIBUTES, draw_picture)


@pytest.fixture(scope="module")
def sounds():
    """All 216 sounds of the generated corpus, float32 [1, T]."""
    return [np.asarray(one, np.float32)[None] for one in combinations(SOUND_ATTRIBUTES, play_sound)]


def saved(pixels, form, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return np.asarray(Image.open(file).convert("RGB"))


def one_bit(pixels):
    changed = pixels.copy()
    changed[5, 7, 1] ^= 1
    return changed


def as_ogg(wave):
    file = io.BytesIO()
    soundfile.write(file, wave.T, RATE, format="OGG")
    file.seek(0)
    return soundfile.read(file, dtype="float32", always_2d=True)[0].T


PICTURES = {
    "jpeg": lambda one: saved(one, "JPEG"),
    "a pixel narrower": lambda one: np.asarray(Image.fromarray(one).resize((one.shape[1] - 1, one.shape[0]))),
    "half the size": lambda one: np.asarray(Image.fromarray(one).resize((one.shape[1] // 2, one.shape[0] // 2))),
    "one bit": one_bit,
}
SOUNDS = {
    "a sample less": lambda one: one[:, 1:],
    "ogg": as_ogg,
    "a hundredth quieter": lambda one: one * np.float32(0.99),
    "stereo of 16 bits": lambda one: np.repeat(np.round(one * 32768) / 32768, 2, axis=0).astype(np.float32),
}


@pytest.mark.parametrize("how", PICTURES)
def test_a_picture_that_was_saved_again_is_near(how, drawings):
    for one in drawings[::9]:
        rows = np.stack([picture_fingerprint(one), picture_fingerprint(PICTURES[how](one))])
        assert len(near_pairs(rows, "image")) == 1


@pytest.mark.parametrize("how", SOUNDS)
def test_a_sound_that_was_saved_again_is_near(how, sounds):
    for one in sounds[::9]:
        rows = np.stack([sound_fingerprint(one, RATE), sound_fingerprint(SOUNDS[how](one), RATE)])
        assert len(near_pairs(rows, "audio")) == 1


def test_hardly_two_combinations_of_the_generated_corpus_are_near(drawings, sounds):
    """A short bell and a short buzz may be: the split knows by their attributes that they are two."""
    assert not len(near_pairs(np.stack([picture_fingerprint(one) for one in drawings]), "image"))
    assert len(near_pairs(np.stack([sound_fingerprint(one, RATE) for one in sounds]), "audio")) <= 0.01 * len(sounds)


def test_plain_pictures_and_silence_have_no_fingerprint():
    plain = picture_fingerprint(np.full((20, 30, 3), 77, np.uint8))
    silence = sound_fingerprint(np.zeros((1, 900), np.float32), RATE)
    assert (plain == NONE).all() and (silence == NONE).all()
    assert not len(near_pairs(np.stack([plain, plain]), "image"))
    assert not (sound_fingerprint(np.full((2, 1), 0.5, np.float32), RATE) == NONE).all()  # a single sample


def test_equal_rows_make_few_pairs_however_many_they_are(drawings):
    one, other = picture_fingerprint(drawings[0]), picture_fingerprint(drawings[100])
    pairs = near_pairs(np.stack([one] * 500 + [other] * 500), "image")
    assert len(pairs) == 998 and {tuple(pair) for pair in pairs[:2]} <= {(0, 1), (0, 2), (500, 501), (500, 502)}


def records(n):
    return [
        {
            "id": f"r{i}",
            "origin": f"o{i}",
            "content_sha256": f"{i:064}",
            "split_hint": None,
            "attributes": None,
            "modality": ("image", "audio")[i % 2],
        }
        for i in range(n)
    ]


def test_near_duplicates_are_dealt_to_one_side_and_counted_where_they_were_not(drawings):
    rows = records(80)
    alike = near_duplicates(
        {
            "image": np.stack([picture_fingerprint(drawings[i % 20]) for i in range(40)]),
            "audio": np.full((40, 145), NONE, np.int8),
        },
        np.array([1 - i % 2 for i in range(80)]),
    )
    assert sorted(map(tuple, alike.tolist())) == [(2 * i, 2 * i + 40) for i in range(20)]
    for pairs, torn in ((alike, False), (alike[:0], True)):
        dealt = list(deal(rows, 0.3, 0.3, pairs))
        found = {one.name: one for one in s2_metrics(rows, dealt, alike)}["near_duplicates_in_two_splits"]
        assert (found.value > 0) == torn and found.n == 80
        sides = [row["split"] for row in dealt]
        assert found.value == sum(sides[one] != sides[other] for one, other in alike)


def test_media_that_are_known_to_show_other_things_are_no_duplicates():
    shown = np.array([7, 9, 7, 0])  # 0: a medium of a data set, of which nothing is known
    pairs = np.array([[0, 1], [0, 2], [0, 3]])
    assert different(shown[pairs[:, 0]], shown[pairs[:, 1]]).tolist() == [True, False, False]
