"""The mel codec: fit, codes, decode, quality, lengths, files."""

import json

import numpy as np
import pytest

from mmpt.codecs.melrvq import MelRvq, MelRvqOptions
from mmpt.codecs.protocol import AudioCodes
from mmpt.corpus import oracle
from mmpt.corpus.generated import generate_sounds
from mmpt.store.errors import UserError

OPTIONS = MelRvqOptions(n_codebooks=2, codebook_size=256, stack=8)


@pytest.fixture(scope="module")
def sounds():
    items = generate_sounds(9, 800)
    return {
        side: [i for i in items if (i.record["split_hint"] == "train") == (side == "train")]
        for side in ("train", "held_out")
    }


@pytest.fixture(scope="module")
def codec(sounds):
    return MelRvq.fit([item.medium for item in sounds["train"]], OPTIONS)


def test_held_out_sounds_keep_their_attributes_and_sound_alike(codec, sounds):
    held_out = sounds["held_out"][::4]
    back = codec.decode(codec.encode([item.medium for item in held_out]))
    right = [
        oracle.read_sound(out, 16_000)[name] == value
        for item, out in zip(held_out, back, strict=True)
        for name, value in item.record["attributes"].items()
    ]
    assert np.mean(right) >= 0.98
    pairs = zip(held_out, back, strict=True)
    quality = [codec.quality(item.medium[None], out)["log_mel_snr"] for item, out in pairs]
    assert np.quantile(quality, 0.05) > codec.quality_floor + 3


def test_sounds_of_one_combination_have_codes_of_their_own(codec, sounds):
    items = sounds["train"][:400]
    codes = codec.encode([item.medium for item in items])
    assert len({one.codes.tobytes() for one in codes}) >= 0.95 * len(items)
    assert len({item.record["group"] for item in items}) < 0.5 * len(items)


def test_more_codebooks_come_closer(sounds):
    media = [item.medium for item in sounds["train"][:150]]
    errors = []
    for books in (1, 2, 4):
        codec = MelRvq.fit(media, MelRvqOptions(n_codebooks=books, codebook_size=64))
        back = codec.decode(codec.encode(media[:10]))
        pairs = zip(media[:10], back, strict=True)
        errors.append(np.mean([codec.quality(wave[None], out)["log_mel_l1"] for wave, out in pairs]))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("samples", [1, 799, 800, 1601, 16_000, 40_123])
def test_lengths_are_exact(codec, samples):
    wave = np.random.default_rng(samples).normal(0, 0.1, (2, samples)).astype(np.float32)
    item = codec.encode([wave])[0]
    assert item.codes.shape == (2, codec.frames(samples)) and item.samples == samples
    back = codec.decode([item])[0]
    assert back.shape == (1, samples) and back.dtype == np.float32 and np.isfinite(back).all()
    unknown = codec.decode([AudioCodes(codes=item.codes)])[0]
    assert unknown.shape == (1, codec.samples(codec.frames(samples)))


def test_codes_and_waves_do_not_depend_on_the_batch(codec, sounds):
    media = [item.medium for item in sounds["held_out"][:4]]
    together = codec.encode(media)
    alone = [codec.encode([wave])[0] for wave in media]
    assert all(np.array_equal(a.codes, b.codes) for a, b in zip(together, alone, strict=True))
    assert np.array_equal(codec.decode(together)[2], codec.decode([alone[2]])[0])


def test_silence_stays_silent_and_level_is_kept(codec, sounds):
    assert abs(codec.decode(codec.encode([np.zeros(16_000, np.float32)]))[0]).max() < 0.01
    for item in sounds["held_out"][:20]:
        back = codec.decode(codec.encode([item.medium]))[0]
        assert 0.5 < np.sqrt(np.mean(back**2) / np.mean(item.medium**2)) < 2


def test_saved_and_loaded_it_is_the_same_codec(codec, sounds, tmp_path):
    codec.save(tmp_path)
    loaded = MelRvq.load(tmp_path)
    item = codec.encode([sounds["held_out"][0].medium])[0]
    assert loaded.identity() == codec.identity()
    assert np.array_equal(loaded.decode([item])[0], codec.decode([item])[0])


def test_weights_that_are_not_those_described_are_refused(codec, tmp_path):
    codec.save(tmp_path)
    path = tmp_path / "codec.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "options": {**about["options"], "seed": 1}}))
    with pytest.raises(UserError, match="do not match"):
        MelRvq.load(tmp_path)


def test_a_fit_is_fixed_by_data_and_options(sounds):
    media = [item.medium for item in sounds["train"][:40]]
    small = MelRvqOptions(n_codebooks=2, codebook_size=32)
    assert MelRvq.fit(media, small).identity() == MelRvq.fit(media, small).identity()
    assert MelRvq.fit(media, small).identity() != MelRvq.fit(media[1:], small).identity()


def test_bad_codes_waves_and_options_are_named(codec):
    with pytest.raises(UserError, match="codebook 1 at frame 2.*found 256"):
        codec.decode([AudioCodes(codes=np.array([[0, 0, 0], [0, 0, 256]]))])
    with pytest.raises(UserError, match="shape of audio codes"):
        codec.decode([AudioCodes(codes=np.zeros((3, 4), np.int32))])
    with pytest.raises(UserError, match="not finite"):
        codec.encode([np.array([[0.0, np.nan]], np.float32)])
    with pytest.raises(UserError, match="multiple of hop"):
        MelRvqOptions(window=500)
    with pytest.raises(UserError, match="no sounds"):
        MelRvq.fit([], OPTIONS)
