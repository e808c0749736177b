"""Sound files that people have: halves of every container, wrong headers, long files, channels that cancel."""

import os
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile

from mmpt.codecs.media import MediaError, clip, load_audio, load_clip, read_audio, summarise_audio
from mmpt.codecs.truncation import FORMATS

RNG = np.random.default_rng(0)
NOISE = RNG.standard_normal(24_000) * 0.1


def sound(tmp_path, form="WAV", subtype=None, wave=NOISE, rate=16_000, name=None):
    path = tmp_path / (name or f"s.{form.lower()}")
    soundfile.write(path, wave, rate, format=form, subtype=subtype)
    return path


def id3(size=20_000):
    """A tag with a cover picture, as it stands before most mp3 files."""
    body = b"APIC" + struct.pack(">IH", size, 0) + os.urandom(size)
    return b"ID3\3\0\0" + bytes((len(body) >> shift) & 127 for shift in (21, 14, 7, 0)) + body


def refused(path, match):
    with pytest.raises(MediaError, match=match) as error:
        summarise_audio(path)
    assert error.value.kind == "unreadable" and "\n" not in str(error.value)
    with pytest.raises(MediaError):
        read_audio(path)


@pytest.mark.parametrize("form", [*FORMATS, "OPUS", "ALAC", "ADPCM"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_part_of_a_file_is_not_a_shorter_sound(tmp_path, form, share):
    container, subtype = {"OPUS": ("OGG", "OPUS"), "ALAC": ("CAF", "ALAC_16"), "ADPCM": ("WAV", "IMA_ADPCM")}.get(
        form, (form, None)
    )
    path = sound(tmp_path, container, subtype)
    assert summarise_audio(path).samples >= len(NOISE)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "cut off|not a readable sound")
    with pytest.raises(MediaError):
        load_clip(path, 16_000, 1, 10.0)


@pytest.mark.parametrize("form", ["MP3", "WAV", "AIFF", "FLAC"])
def test_a_tag_before_the_sound_hides_no_missing_half(tmp_path, form):
    path = sound(tmp_path, form)
    data = path.read_bytes()
    path.write_bytes(id3() + data)
    assert summarise_audio(path).samples == len(NOISE)
    path.write_bytes(id3() + data[: len(data) // 2])
    refused(path, "cut off|not a readable sound")


def without_count(path):
    """The mp3 as an encoder writes it that counts nothing: without its first frame."""
    data = path.read_bytes()
    return data[data.index(b"\xff\xf3", 4) :]


def test_a_title_with_the_word_info_is_no_count_of_frames(tmp_path):
    path = tmp_path / "s.mp3"
    soundfile.write(path, NOISE, 16_000, format="MP3", bitrate_mode="CONSTANT", compression_level=0.5)
    data = without_count(path)
    path.write_bytes(b"ID3\3\0\0\0\0\0\x0fTIT2\0\0\0\5\0\0\0Info" + data)
    assert summarise_audio(path).samples >= len(NOISE)
    path.write_bytes(data[: len(data) // 2 + 3])
    refused(path, "its last frame lacks")


def test_a_decoder_that_stops_at_its_estimate_is_noticed(tmp_path):
    """Without a count libmpg123 takes the length from the first frame's bit rate, and stops there."""
    path = tmp_path / "s.mp3"
    wave = np.concatenate([NOISE, np.zeros(160_000), NOISE])
    soundfile.write(path, wave, 16_000, format="MP3", bitrate_mode="VARIABLE", compression_level=0.3)
    path.write_bytes(without_count(path))
    refused(path, "the decoder gives .* samples of .* frames|cut off")


def test_zeros_in_the_place_of_frames_are_no_sound(tmp_path):
    path = sound(tmp_path, "MP3")
    data = path.read_bytes()
    for share in (0.5, 0.9):
        cut = int(len(data) * share)
        path.write_bytes(data[:cut] + bytes(len(data) - cut))
        refused(path, "frames that its header counts are missing|not a readable sound")


def test_chunks_before_the_samples_hide_no_missing_half(tmp_path):
    """bext and LIST chunks of broadcast recorders are longer than any head that is read."""
    path = sound(tmp_path)
    data = path.read_bytes()
    listed = b"LIST" + struct.pack("<I", 70_000) + b"INFO" + bytes(69_996)
    for part in (1, 2):
        body = data[12:36] + listed + data[36:]
        whole = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body
        path.write_bytes(whole[: len(whole) // part] if part == 1 else whole[: -NOISE.size])
        if part == 1:
            assert summarise_audio(path).samples == len(NOISE)
    refused(path, "24000 of 48000 bytes of its samples are missing")


def test_of_several_sounds_in_a_row_none_is_dropped_in_silence(tmp_path):
    one = sound(tmp_path, "OGG").read_bytes()
    path = tmp_path / "two.ogg"
    path.write_bytes(one + one)
    refused(path, "several sounds in a row")


def crc(page):
    """The check sum of an Ogg page: CRC-32 with polynomial 0x04c11db7, not reflected, from 0."""
    value = 0
    for byte in page[:22] + b"\0\0\0\0" + page[26:]:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value >> 31 else value << 1) & 0xFFFFFFFF
    return struct.pack("<I", value)


def test_a_missing_end_mark_is_not_a_missing_end(tmp_path):
    """Icecast and browsers write whole pages and no mark on the last one."""
    path = sound(tmp_path, "OGG")
    data = bytearray(path.read_bytes())
    last = data.rindex(b"OggS")
    data[last + 5] &= ~4
    data[last + 22 : last + 26] = crc(data[last:])
    path.write_bytes(data)
    assert summarise_audio(path).samples > 0.9 * len(NOISE)
    path.write_bytes(data[:-10])
    refused(path, "its last page lacks 10 bytes")


def test_a_page_that_was_lost_on_the_way_is_missed(tmp_path):
    path = sound(tmp_path, "OGG", wave=RNG.standard_normal(160_000) * 0.1)
    data = path.read_bytes()
    pages = [at for at in range(len(data)) if data.startswith(b"OggS", at)]
    assert len(pages) > 5
    path.write_bytes(data[: pages[4]] + data[pages[5] :])
    refused(path, "page 4 is missing|less than it says")


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2_147_483_647])
def test_a_rate_that_no_sound_has_is_refused_before_it_costs_memory(tmp_path, rate):
    """200,000 samples at 1 Hz are 55 hours: 24 GiB at 16 kHz."""
    path = sound(tmp_path, wave=np.zeros(2000) + 0.1)
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", rate)
    path.write_bytes(data)
    refused(path, f"sample rate; found {rate} Hz; expected 1000 to 768000 Hz")
    with pytest.raises(MediaError, match="sample rate"):
        load_audio(path, 24_000, 1)


@pytest.mark.parametrize("form", ["AVR", "IRCAM", "MAT5", "PAF", "PVF", "VOC", "XI"])
def test_formats_whose_end_cannot_be_checked_are_named(tmp_path, form):
    path = sound(tmp_path, form, "DPCM_16" if form == "XI" else "PCM_16")
    refused(path, f"a format whose end cannot be checked; found {form}")


@pytest.mark.parametrize("crop", ["first", "center"])
@pytest.mark.parametrize(
    ("form", "original", "rate"),
    [
        ("WAV", 44_100, 24_000),
        ("FLAC", 48_000, 16_000),
        ("OGG", 16_000, 24_000),
        ("MP3", 22_050, 16_000),
        ("WAV", 16_000, 16_000),
        ("WAV", 11_025, 48_000),
    ],
)
def test_a_clip_is_the_same_samples_as_the_whole_sound_cut(tmp_path, crop, form, original, rate):
    wave = RNG.standard_normal((original * 3 + 17, 2)) * 0.1
    path = sound(tmp_path, form, wave=wave, rate=original)
    for channels in (1, 2):
        whole = load_audio(path, rate, channels)
        for seconds in (0.5, 1.7, 9.0):
            got, longer = load_clip(path, rate, channels, seconds, crop)
            expected, _ = clip(whole, rate, seconds, crop)
            assert np.array_equal(got, expected) and longer == (seconds < 3)


def test_memory_follows_the_clip_and_not_the_recording(tmp_path):
    path = sound(tmp_path, wave=np.tile(NOISE, 400), rate=16_000)  # ten minutes, 38 MB as float32
    load_clip(path, 24_000, 1, 1.0)  # loads scipy
    for what, most in ((lambda: load_clip(path, 24_000, 1, 1.0, "center"), 4e6), (lambda: summarise_audio(path), 8e6)):
        tracemalloc.start()
        what()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most


def test_a_header_that_promises_more_than_any_memory_costs_none(tmp_path):
    path = sound(tmp_path, "AU")
    data = bytearray(path.read_bytes())
    data[8:12] = struct.pack(">I", 0x7FFF0000 - 1)
    path.write_bytes(data)
    refused(path, "bytes of its samples are missing")


def test_levels_show_silence_and_channels_that_cancel(tmp_path):
    tone = 0.5 * np.sin(np.arange(16_000) / 5)
    silent = summarise_audio(sound(tmp_path, wave=np.zeros(16_000), name="a.wav"))
    inverted = summarise_audio(sound(tmp_path, wave=np.stack([tone, -tone], 1), name="b.wav"))
    assert silent.rms == silent.mixed_rms == 0
    assert inverted.rms == pytest.approx(0.354, abs=2e-3) and inverted.mixed_rms < 1e-4


@pytest.mark.parametrize("offsets", [[0.5], [0.5, -0.5], [1e-3, 0.9]])
def test_a_constant_is_silent_and_a_sound_on_an_offset_is_not(tmp_path, offsets):
    """A microphone that is not plugged in: an offset with a step of noise, at -6 dB by its mean square."""
    steps = RNG.integers(-1, 2, (16_000, len(offsets))) / 32768
    constant = summarise_audio(sound(tmp_path, wave=np.array(offsets) + steps, name="a.wav"))
    assert constant.rms < 1e-4 and constant.mixed_rms < 1e-4
    quiet = summarise_audio(sound(tmp_path, wave=np.array(offsets) + steps * 600, name="b.wav"))
    assert quiet.rms > 0.02


def test_a_recording_has_one_content_in_every_lossless_container(tmp_path):
    wave = (NOISE * 32768).round() / 32768
    contents = {
        summarise_audio(sound(tmp_path, form, "PCM_16", wave)).content_sha256
        for form in ("WAV", "FLAC", "AIFF", "CAF", "W64", "RF64", "AU")
    }
    assert len(contents) == 1
    assert summarise_audio(sound(tmp_path, wave=wave, rate=8000)).content_sha256 not in contents
