"""EnCodec through transformers, on small random models of the two published geometries."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmpt.codecs import encodec, registry
from mmpt.codecs.encodec_weights import open_model
from mmpt.codecs.protocol import AudioCodes
from mmpt.store.errors import UserError
from mmpt.store.schema import validate_file


def wave(codec, samples, seed=0, loud=0.2):
    """Noise with a moving tone: float32 [channels, samples]."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / codec.sample_rate
    tone = np.sin(2 * np.pi * (200 + 400 * t) * t)
    return (loud * (0.6 * tone + 0.2 * rng.standard_normal((codec.channels, samples)))).astype(np.float32)


@pytest.fixture(scope="module", params=["24k", "48k"])
def codec(request, encodec_folder):
    torch.set_num_threads(1)
    made = encodec.create({"path": str(encodec_folder(request.param))})
    if made.config.normalize:
        made.fit_gain([wave(made, 48_000)])
    return made


@pytest.fixture(scope="module")
def large(encodec_folder):
    """The 48 kHz one."""
    torch.set_num_threads(1)
    return encodec.create({"path": str(encodec_folder("48k"))}, [np.full((2, 48_000), 0.25, np.float32)])


def test_geometry_is_read_from_the_files(codec):
    assert (codec.sample_rate, codec.channels, codec.frame_rate) in [(24_000, 1, 75.0), (48_000, 2, 150.0)]
    assert (codec.n_codebooks, codec.codebook_size) == (4, 64)


@pytest.mark.parametrize("samples", [1, 1200, 30_000, 47_521, 47_700, 48_000, 96_001])
def test_frame_counts_are_known_beforehand_and_lengths_come_back_exactly(codec, samples):
    coded = codec.encode([wave(codec, samples)])[0]
    assert coded.codes.shape == (4, codec.frames(samples)) and coded.samples == samples
    back = codec.decode([coded])[0]
    assert back.shape == (codec.channels, samples) and back.dtype == np.float32 and np.isfinite(back).all()


def test_codes_vary_so_that_these_tests_mean_something(codec):
    codes = codec.encode([wave(codec, 48_000)])[0].codes
    assert min(len(np.unique(row)) for row in codes) > 5


def test_ten_seconds_at_48_khz_are_eleven_chunks_and_1515_real_frames(large):
    coded = large.encode([wave(large, 480_000)])[0]
    assert coded.meta["chunk_frames"] == [150] * 10 + [15]
    assert coded.codes.shape == (4, 1515) and len(coded.scales) == 11
    assert large.chunk_frames(48_000) == [150, 2]


def test_decoding_is_transformers_own(codec):
    sound = wave(codec, 100_000)
    coded = codec.encode([sound])[0]
    with torch.inference_mode():
        raw = codec._run.model.encode(torch.from_numpy(sound)[None], bandwidth=codec._bandwidth)
        plain = codec._run.model.decode(
            raw.audio_codes, raw.audio_scales, last_frame_pad_length=raw.last_frame_pad_length
        )
    assert np.array_equal(codec.decode([coded])[0], plain.audio_values[0].numpy()[:, :100_000])


def test_fewer_codebooks_are_the_first_of_more(encodec_folder, codec):
    geometry = "48k" if codec.config.normalize else "24k"
    three = encodec.create({"path": str(encodec_folder(geometry)), "n_codebooks": 3})
    sound = wave(codec, 24_000)
    assert np.array_equal(three.encode([sound])[0].codes, codec.encode([sound])[0].codes[:3])
    assert three.identity() != codec.identity()


def test_codes_do_not_depend_on_the_batch(codec):
    sounds = [wave(codec, n, seed=n) for n in (9000, 24_000, 9000)]
    together = codec.encode(sounds)
    for sound, coded in zip(sounds, together, strict=True):
        alone = codec.encode([sound])[0]
        assert np.array_equal(alone.codes, coded.codes) and alone.scales == coded.scales
    for coded, back in zip(together, codec.decode(together), strict=True):
        assert np.array_equal(codec.decode([coded])[0], back)


def test_scales_are_the_loudness_of_each_chunk(large):
    loud, quiet = wave(large, 96_000, loud=0.5), wave(large, 96_000, loud=0.005)
    scales = [large.encode([sound])[0].scales for sound in (loud, quiet)]
    assert np.allclose(scales[0], np.array(scales[1]) * 100, rtol=1e-3)
    assert np.allclose(scales[0], large.gains(loud), rtol=1e-4)
    levels = [np.sqrt((back**2).mean()) for back in large.decode([large.encode([s])[0] for s in (loud, quiet)])]
    assert levels[0] / levels[1] == pytest.approx(100, rel=0.02)  # the same codes, each at its own loudness


def test_generated_codes_get_the_median_gain_of_the_training_clips(large):
    clips = [np.full((2, 96_000), level, np.float32) for level in (0.1, 0.2, 0.6)] + [np.zeros((2, 96_000), np.float32)]
    large.fit_gain(clips)
    assert large.median_scale == pytest.approx(0.2, rel=1e-3)  # silence does not count
    coded = large.encode([wave(large, 96_000)])[0]
    generated = replace(coded, scales=None, meta={})
    told = replace(coded, scales=[large.median_scale] * len(coded.scales))
    assert np.array_equal(large.decode([generated])[0], large.decode([told])[0])


def test_generated_codes_without_a_known_gain_are_refused(encodec_folder):
    bare = encodec.create({"path": str(encodec_folder("48k"))})
    with pytest.raises(UserError, match="median gain"):
        bare.decode([AudioCodes(np.zeros((4, 10), np.int32))])


def test_generated_codes_without_a_length_fill_whole_chunks(codec):
    frames = 200
    back = codec.decode([AudioCodes(np.ones((4, frames), np.int32))])[0]
    expected = frames * 320 if not codec.config.normalize else 47_520 + 50 * 320
    assert back.shape == (codec.channels, expected)


def test_codes_that_cannot_be_are_refused(codec):
    coded = codec.encode([wave(codec, 24_000)])[0]
    wrong = coded.codes.copy()
    wrong[2, 5] = 64
    with pytest.raises(UserError, match="outside codebook 2 at frame 5; found 64; expected 0..63"):
        codec.decode([replace(coded, codes=wrong)])
    with pytest.raises(UserError, match="wrong shape"):
        codec.decode([replace(coded, codes=coded.codes[:3])])
    with pytest.raises(UserError, match="don't fill the chunks|fewer frames"):
        codec.decode([replace(coded, codes=coded.codes[:, :-1])])
    with pytest.raises(UserError, match="fewer frames"):
        codec.decode([replace(coded, samples=100_000)])
    for bad in (
        np.zeros((codec.channels + 1, 9), np.float32),
        np.zeros((codec.channels, 0), np.float32),
        np.full((codec.channels, 9), np.nan, np.float32),
    ):
        with pytest.raises(UserError, match="a wave is empty, not finite or has the wrong channels"):
            codec.encode([bad])


def test_a_saved_codec_is_itself_again_and_needs_no_other_folder(codec, tmp_path):
    registry.save(codec, tmp_path / "audio", "encodec", "audio", clip_seconds=2.0, crop="first", resampler="r")
    validate_file(tmp_path / "audio/codec.json", "codec")
    assert str(tmp_path) not in (tmp_path / "audio/codec.json").read_text()
    (tmp_path / "audio").rename(tmp_path / "moved")
    again = registry.load_audio(tmp_path / "moved")
    coded = codec.encode([wave(codec, 30_000)])[0]
    assert again.identity() == codec.identity()
    assert np.array_equal(again.encode([wave(codec, 30_000)])[0].codes, coded.codes)
    unscaled = replace(coded, scales=None)
    assert np.array_equal(again.decode([unscaled])[0], codec.decode([unscaled])[0])


def test_a_codec_is_moved_to_the_asked_device(codec, tmp_path):
    registry.save(codec, tmp_path, "encodec", "audio")
    moved = registry.load_audio(tmp_path, device="meta")  # a device that every machine has
    assert next(moved._run.model.parameters()).device.type == "meta"


def test_other_weights_are_another_identity_and_do_not_load(codec, tmp_path):
    registry.save(codec, tmp_path, "encodec", "audio")
    other = open_model(tmp_path).model
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    other.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="isn't the one that was saved"):
        registry.load_audio(tmp_path)


def test_missing_weights_say_what_to_put_where(tmp_path):
    with pytest.raises(UserError, match="put config.json and model.safetensors of facebook/encodec_24khz") as error:
        encodec.create({"path": str(tmp_path)})
    assert str(tmp_path) in str(error.value)
    with pytest.raises(UserError, match="EnCodec needs its weights.*path: facebook/encodec_24khz"):
        encodec.create({})


def test_a_hub_that_cannot_be_reached_is_a_clear_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="neither in a local folder nor reachable.*found somebody/encodec"):
        encodec.create({"path": "somebody/encodec"})


def test_incomplete_and_foreign_weights_are_refused(encodec_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    source = encodec_folder("24k")
    weights = load_file(source / "model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    with pytest.raises(UserError, match="1 tensors missing"):
        encodec.create({"path": str(tmp_path)})
    (tmp_path / "config.json").write_text('{"model_type": "dac"}')
    with pytest.raises(UserError, match="not an EnCodec model.*'dac'"):
        encodec.create({"path": str(tmp_path)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_codebooks": 9}, "doesn't have so many codebooks.*found 9.*expected 1..8"),
        ({"n_codebooks": 0}, "doesn't have so many codebooks"),
        ({"codebook_size": 1024}, "fixed by its weights.*found 1024.*expected 64"),
        ({"n_codebook": 4}, "unknown codec option.*did you mean 'n_codebooks'"),
    ],
)
def test_options_it_cannot_have_are_refused(encodec_folder, options, message):
    with pytest.raises(UserError, match=message):
        encodec.create({"path": str(encodec_folder("24k")), **options})


def test_quality_is_scale_invariant_and_falls_with_noise(codec):
    sound = wave(codec, 8000)
    assert codec.quality(sound, 0.3 * sound)["si_sdr_db"] == 100
    noisy = sound + 0.01 * np.random.default_rng(1).standard_normal(sound.shape).astype(np.float32)
    worse = sound + 0.1 * np.random.default_rng(1).standard_normal(sound.shape).astype(np.float32)
    assert codec.quality(sound, noisy)["si_sdr_db"] - codec.quality(sound, worse)["si_sdr_db"] == pytest.approx(
        20, abs=0.5
    )
    assert codec.quality(sound, np.zeros_like(sound))["si_sdr_db"] <= -50


def test_waves_of_one_length_may_go_together(codec):
    """What happens on CUDA: the same codes but for near ties, in the order given."""
    sounds = [wave(codec, n, seed=n + i) for i, n in enumerate((24_000, 9000, 24_000, 60_000, 9000, 24_000))]
    alone = codec.encode(sounds)
    codec.together = True
    try:
        assert codec._batches(sounds) == [[0, 2, 5], [1, 4], [3]]
        together = codec.encode(sounds)
    finally:
        codec.together = False
    differ = [int((a.codes != b.codes).sum()) for a, b in zip(alone, together, strict=True)]
    assert sum(differ) <= 0.001 * sum(one.codes.size for one in alone)
    for a, b in zip(alone, together, strict=True):
        assert a.samples == b.samples and a.meta == b.meta
        assert a.scales is None or np.allclose(a.scales, b.scales, rtol=1e-5)


@pytest.mark.parametrize("frames", [1, 40, 150, 151, 303])
def test_the_length_of_generated_codes_is_known_beforehand(codec, frames):
    back = codec.decode([AudioCodes(np.ones((4, frames), np.int32))])[0]
    assert back.shape[1] == codec.samples(frames)
