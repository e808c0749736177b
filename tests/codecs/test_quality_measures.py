"""SI-SDR, log-mel L1, PSNR and SSIM: the measures by which an accepted baseline is held."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from mmpt.codecs.audio_quality import log_mel_l1, si_sdr_db
from mmpt.codecs.encodec import create
from mmpt.codecs.image_quality import psnr, ssim
from mmpt.codecs.patchvq import PatchVq, PatchVqOptions


def noise(seed, channels=1, samples=24_000, loud=0.1):
    return (np.random.default_rng(seed).standard_normal((channels, samples)) * loud).astype(np.float32)


def test_si_sdr_is_the_ratio_of_powers_whatever_the_gain():
    sound = noise(0)
    assert si_sdr_db(sound, -0.3 * sound) == 100
    assert si_sdr_db(sound, sound + noise(1, loud=0.01)) == pytest.approx(20, abs=0.3)
    assert si_sdr_db(sound, 5 * (sound + noise(1, loud=0.01))) == pytest.approx(20, abs=0.3)
    assert si_sdr_db(sound, np.zeros_like(sound)) <= -50


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_log_mel_l1_is_the_change_of_level(rate):
    sound = noise(0, samples=rate)
    assert log_mel_l1(sound, sound, rate) == 0
    assert log_mel_l1(sound, 2 * sound, rate) == pytest.approx(np.log(2), abs=0.05)
    assert log_mel_l1(sound, 1.05 * sound, rate) < log_mel_l1(sound, noise(1, samples=rate), rate)


def test_psnr_by_hand():
    grey = np.full((16, 16, 3), 100, np.uint8)
    assert psnr(grey, grey) == pytest.approx(99)
    assert psnr(grey, grey + np.uint8(10)) == pytest.approx(20 * np.log10(25.5))
    assert psnr(np.full((64, 32, 3), 100, np.uint8), grey + np.uint8(10)) == pytest.approx(
        20 * np.log10(25.5), abs=1e-3
    )


def test_ssim_at_its_ends_and_between():
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.random((48, 48, 3)), (3, 3, 0))
    picture = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    assert ssim(picture, picture) == pytest.approx(1)
    little = np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
    much = np.clip(picture + rng.normal(0, 40, picture.shape), 0, 255).astype(np.uint8)
    assert 1 > ssim(picture, little) > 0.8 > ssim(picture, much) > ssim(picture, 255 - picture)
    # equal pictures but for brightness: only the first factor falls, (2ab + c1) / (a^2 + b^2 + c1)
    flat = np.full((32, 32, 3), 100, np.uint8)
    expected = (2 * 100 * 150 + 6.5025) / (100**2 + 150**2 + 6.5025)
    assert ssim(flat, np.full((32, 32, 3), 150, np.uint8)) == pytest.approx(expected, abs=1e-6)


def test_codecs_report_what_their_gate_compares_with_a_baseline(encodec_folder):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = PatchVq.fit([picture], PatchVqOptions(size=16, patch=4, codebook_size=4))
    assert set(image.quality(picture, image.decode(image.encode([picture]))[0])) == {"psnr", "ssim"}
    audio = create({"path": str(encodec_folder("24k"))})
    sound = noise(0)
    found = audio.quality(sound, audio.decode(audio.encode([sound]))[0])
    assert set(found) == {"si_sdr_db", "log_mel_l1", "kept_db"} and found["log_mel_l1"] > 0
