"""Written media and the independent readers: each fault is named, and a good file has none."""

import numpy as np
import pytest
from PIL import Image

from mmpt.evaluate.media import clipped_share, png_faults, read_png, read_wav, wav_faults, write_png, write_wav

RATE = 16000
TONE = np.sin(np.arange(RATE) / 10.0)[None].astype(np.float32) * 0.5
FORM = {"rate": RATE, "channels": 1, "samples": RATE, "reconstruction_rms": 0.3}


def test_a_wav_reads_back_to_16_bits(tmp_path):
    path = tmp_path / "a" / "tone.wav"
    write_wav(path, TONE, RATE)
    wave, rate = read_wav(path)
    assert rate == RATE and wave.shape == (1, RATE)
    assert np.abs(wave - TONE).max() < 1 / 16384
    assert wav_faults(path, **FORM) == []


def test_equal_waves_give_equal_bytes(tmp_path):
    for name in ("one.wav", "two.wav"):
        write_wav(tmp_path / name, TONE, RATE)
    assert (tmp_path / "one.wav").read_bytes() == (tmp_path / "two.wav").read_bytes()


@pytest.mark.parametrize(
    ("wave", "fault"),
    [
        (TONE * 1e-3, "silent"),
        (TONE * 0 + 0.25, "constant"),
        (TONE * 30, "clipped"),
        (TONE[:, :100], "wrong_form"),
        (np.repeat(TONE, 2, 0), "wrong_form"),
    ],
)
def test_bad_sounds_are_named(tmp_path, wave, fault):
    write_wav(tmp_path / "bad.wav", wave, RATE)
    assert fault in wav_faults(tmp_path / "bad.wav", **FORM)


def test_a_sound_may_clip_as_much_as_its_ground_truth(tmp_path):
    loud = np.clip(TONE * 3, -1, 1)  # two thirds of the way to a square wave
    write_wav(tmp_path / "loud.wav", loud, RATE)
    assert wav_faults(tmp_path / "loud.wav", **FORM) == ["clipped"]
    assert wav_faults(tmp_path / "loud.wav", **FORM, reconstruction_clipped=clipped_share(loud)) == []
    assert wav_faults(tmp_path / "loud.wav", **FORM, reconstruction_clipped=clipped_share(loud) - 0.02) == ["clipped"]


def test_missing_unreadable_and_float_wavs(tmp_path):
    import soundfile

    assert wav_faults(tmp_path / "none.wav", **FORM) == ["missing"]
    (tmp_path / "junk.wav").write_bytes(b"RIFFnothing")
    assert wav_faults(tmp_path / "junk.wav", **FORM) == ["unreadable"]
    soundfile.write(tmp_path / "float.wav", TONE.T, RATE, subtype="FLOAT")
    assert wav_faults(tmp_path / "float.wav", **FORM) == ["unreadable"]
    write_wav(tmp_path / "slow.wav", TONE, RATE // 2)
    assert "wrong_form" in wav_faults(tmp_path / "slow.wav", **FORM)


@pytest.mark.parametrize("seed", range(4))
def test_our_png_reader_agrees_with_pillow(tmp_path, seed):
    rng = np.random.default_rng(seed)
    smooth = np.add.outer(np.arange(24), np.arange(31))[:, :, None] * np.array([1, 2, 3]) + rng.integers(
        0, 1 + 40 * seed, 3
    )
    pixels = (smooth + rng.integers(0, 1 + 3 * seed, smooth.shape)).clip(0, 255).astype(np.uint8)
    write_png(tmp_path / "p.png", pixels)
    assert np.array_equal(read_png(tmp_path / "p.png"), pixels)
    assert png_faults(tmp_path / "p.png", size=(24, 31)) == []
    assert png_faults(tmp_path / "p.png", size=(31, 24)) == ["wrong_form"]


@pytest.mark.parametrize("line_filter", range(5))
def test_every_line_filter_is_undone(tmp_path, line_filter):
    import struct
    import zlib

    rng = np.random.default_rng(line_filter)
    pixels = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    flat = pixels.reshape(5, 12).astype(int)
    rows = b""
    for y in range(5):
        left = np.concatenate([np.zeros(3, int), flat[y, :-3]])
        up = flat[y - 1] if y else np.zeros(12, int)
        corner = np.concatenate([np.zeros(3, int), up[:-3]])
        near = left + up - corner
        paeth = [min((a, b, c), key=lambda v: abs(e - v)) for a, b, c, e in zip(left, up, corner, near, strict=True)]
        predicted = [0 * left, left, up, (left + up) // 2, np.array(paeth)][line_filter]
        rows += bytes([line_filter]) + bytes(((flat[y] - predicted) % 256).astype(np.uint8))

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 4, 5, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "f.png").write_bytes(data)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "f.png")), pixels)
    assert np.array_equal(read_png(tmp_path / "f.png"), pixels)


def test_bad_pictures_are_named(tmp_path):
    assert png_faults(tmp_path / "none.png", size=(8, 8)) == ["missing"]
    write_png(tmp_path / "flat.png", np.full((8, 8, 3), 7, np.uint8))
    assert png_faults(tmp_path / "flat.png", size=(8, 8)) == ["constant"]
    data = bytearray((tmp_path / "flat.png").read_bytes())
    data[-20] ^= 1
    (tmp_path / "torn.png").write_bytes(data)
    assert png_faults(tmp_path / "torn.png", size=(8, 8)) == ["unreadable"]
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "grey.png")
    assert png_faults(tmp_path / "grey.png", size=(8, 8)) == ["unreadable"]
