"""The patch codec: fit, codes, decode, quality, files."""

import json

import numpy as np
import pytest

from mmpt.codecs.kmeans import kmeans, nearest
from mmpt.codecs.patchvq import PatchVq, PatchVqOptions, resize
from mmpt.corpus import oracle
from mmpt.corpus.generated import generate_pictures
from mmpt.store.errors import UserError

OPTIONS = PatchVqOptions(size=48, patch=12, codebook_size=320)


@pytest.fixture(scope="module")
def pictures():
    items = generate_pictures(9, 900)
    return {
        side: [i for i in items if (i.record["split_hint"] == "train") == (side == "train")]
        for side in ("train", "held_out")
    }


@pytest.fixture(scope="module")
def codec(pictures):
    return PatchVq.fit([item.medium for item in pictures["train"]], OPTIONS)


def test_held_out_pictures_keep_their_attributes_and_look_alike(codec, pictures):
    media = [item.medium for item in pictures["held_out"]]
    back = codec.decode(codec.encode(media))
    pairs = zip(pictures["held_out"], back, strict=True)
    right = [
        oracle.read_picture(out)[name] == value
        for item, out in pairs
        for name, value in item.record["attributes"].items()
    ]
    assert np.mean(right) >= 0.99
    quality = [codec.quality(*pair)["psnr"] for pair in zip(media, back, strict=True)]
    assert np.quantile(quality, 0.05) > codec.quality_floor + 6


def test_pictures_of_one_combination_have_codes_of_their_own(codec, pictures):
    items = pictures["train"]
    codes = codec.encode([item.medium for item in items])
    assert len({one.tobytes() for one in codes}) >= 0.95 * len(items)
    assert len({item.record["group"] for item in items}) < 0.5 * len(items)


def test_the_nearest_centre_does_not_depend_on_how_the_product_is_rounded():
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 255, (40, 432)).astype(np.float32)
    twins = centres + rng.choice([0, 1 / 64], centres.shape).astype(np.float32)  # nearer than float32 sums can tell
    both = np.concatenate([centres, twins])
    points = both[rng.integers(len(both), size=300)]
    exact = np.array([((both.astype(np.float64) - point) ** 2).sum(axis=1).argmin() for point in points])
    for rows in (1, 3, 300):  # BLAS adds in another order for another shape, as for another number of threads
        found = np.concatenate([nearest(points[i : i + rows], both) for i in range(0, 300, rows)])
        assert (found == exact).all()
    plain = np.argmin(0.5 * (both**2).sum(axis=1) - points @ both.T, axis=1)
    assert (plain != exact).any()


def test_codes_do_not_depend_on_the_batch(codec, pictures):
    media = [item.medium for item in pictures["held_out"][:6]]
    together, alone = codec.encode(media), [codec.encode([one])[0] for one in media]
    assert all(np.array_equal(*pair) for pair in zip(together, alone, strict=True))
    assert all(code.shape == (16,) and code.dtype == np.int32 for code in together)


def test_any_size_comes_back_at_the_codec_s_size(codec):
    rng = np.random.default_rng(0)
    for shape in ((1, 1, 3), (48, 48, 3), (31, 77, 3), (500, 200, 3)):
        picture = rng.integers(0, 256, shape).astype(np.uint8)
        assert codec.decode(codec.encode([picture]))[0].shape == (48, 48, 3) == codec.prepare(picture).shape


def test_resizing_keeps_flat_colour_and_identity():
    flat = np.full((30, 20, 3), 77, np.uint8)
    assert np.allclose(resize(flat, 48), 77, atol=1e-3) and np.allclose(resize(flat, 7), 77, atol=1e-3)
    picture = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    assert np.array_equal(resize(picture, 16), picture)


def test_saved_and_loaded_it_is_the_same_codec(codec, pictures, tmp_path):
    codec.save(tmp_path)
    loaded = PatchVq.load(tmp_path)
    media = [item.medium for item in pictures["held_out"][:5]]
    assert loaded.identity() == codec.identity()
    assert all(np.array_equal(*pair) for pair in zip(loaded.encode(media), codec.encode(media), strict=True))


def test_weights_that_are_not_those_described_are_refused(codec, tmp_path):
    codec.save(tmp_path)
    path = tmp_path / "codec.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "options": {**about["options"], "seed": 1}}))
    with pytest.raises(UserError, match="do not match"):
        PatchVq.load(tmp_path)


def test_a_fit_is_fixed_by_data_and_options(pictures):
    media = [item.medium for item in pictures["train"][:60]]
    small = PatchVqOptions(size=48, patch=12, codebook_size=32)
    assert PatchVq.fit(media, small).identity() == PatchVq.fit(media, small).identity()
    assert PatchVq.fit(media, small).identity() != PatchVq.fit(media[1:], small).identity()


def test_bad_codes_and_options_are_named(codec):
    with pytest.raises(UserError, match="position 3.*found 320"):
        codec.decode([np.array([0, 0, 0, 320] + [0] * 12)])
    with pytest.raises(UserError, match="number of image codes"):
        codec.decode([np.zeros(15, np.int32)])
    with pytest.raises(UserError, match="divide"):
        PatchVqOptions(size=50, patch=12)
    with pytest.raises(UserError, match="no pictures"):
        PatchVq.fit([], OPTIONS)


def test_kmeans_finds_separate_clusters_and_fills_up_where_points_are_few():
    rng = np.random.default_rng(0)
    places = np.array([[0, 0], [9, 0], [0, 9], [9, 9]], np.float32)
    points = (places[:, None] + rng.normal(0, 0.1, (4, 50, 2))).reshape(-1, 2).astype(np.float32)
    centres = kmeans(points, 4, seed=1)
    assert len(set(nearest(places, centres))) == 4
    assert np.abs(centres[nearest(places, centres)] - places).max() < 0.1
    few = kmeans(points[:3], 5, seed=1)
    assert few.shape == (5, 2) and nearest(points[:3], few).tolist() == [0, 1, 2]
