"""Sound files through soundfile: float32 [C, T], read in blocks, so that memory follows what is used of a sound.

`summarise_audio` goes over a whole file once and holds one block; `load_clip` reads the part that is tokenised and
resamples that. Formats whose end cannot be checked (see `truncation.py`) and rates that no sound has are refused.

A segment of a recording is sought, never decoded up to. MP3, Vorbis and Opus are sought LEAD seconds earlier, because
their decoders need what comes before: measured on noise and tones with libsndfile 1.2.2 (2026-11-30), the samples are
then those of the whole recording to 1e-7, while Opus without it is off by 1e-3. A recording that cannot be sought, as
GSM 6.10 in a WAV, is an unreadable medium.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import soundfile

from mmpt.codecs.media_files import MediaError, existing, readable, said
from mmpt.codecs.members import MediaFile, Segment
from mmpt.codecs.truncation import FORMATS, missing_end, missing_structure
from mmpt.store.errors import UserError

RESAMPLER = "scipy.signal.resample_poly"
CROPS = ("first", "center")
OVER, LOUD = 1.12, 0.01  # 1 dB over full scale; from this share of samples on, to cut them makes another sound
BLOCK = 1 << 18  # numbers read at once: 1 MB of float32
RATES = (1_000, 768_000)  # Hz: a header outside is wrong; 1 Hz is in WavCaps (Freesound 592228), 200 hours long
COUNTED = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "NIST", "SVX")  # whose frame count is exact
CONSTANT = 1e-3  # of a sound's level that is heard, below which the rest, an offset, is not counted
LEAD = 1.0  # seconds decoded before a segment where a decoder's state reaches back
BEHIND = 0.05  # seconds that a segment may end behind its recording: durations are rounded, some to a tenth
HALF_FILTER = 10  # half length of scipy's default filter, in units of max(up, down) samples


@dataclass(frozen=True)
class SoundSummary:
    """What one pass over a sound file finds.

    Args:
        rate: Hz. channels, samples: of each channel.
        content_sha256: of the decoded float32 samples, rate and channels: equal for a wav and its flac.
        rms: root mean square over all channels, full scale 1; that about the mean where nearly all of it is a constant,
            which nobody hears.
        mixed_rms: that of the channels' mean, which a mono codec hears; inverted channels cancel in it.
    """

    rate: int
    channels: int
    samples: int
    content_sha256: str
    rms: float
    mixed_rms: float


class _Cut:
    """A segment of an open recording: what is asked of a `SoundFile`, counted from the segment's beginning."""

    def __init__(self, file: soundfile.SoundFile, first: int, frames: int):
        self.samplerate, self.channels, self.format = file.samplerate, file.channels, file.format
        self.frames = frames
        self._file, self._first, self._at = file, first, 0
        self.seek(0)

    def seek(self, frame: int) -> None:
        lead = 0 if self.format in COUNTED else min(self._first + frame, round(LEAD * self.samplerate))
        self._file.seek(self._first + frame - lead)
        if lead:
            self._file.read(lead, dtype="float32")
        self._at = frame

    def read(self, frames: int, **form: Any) -> np.ndarray:
        block = self._file.read(min(frames, self.frames - self._at), **form)
        self._at += len(block)
        return block


Sound: TypeAlias = "soundfile.SoundFile | _Cut"


def summarise_audio(path: MediaFile) -> SoundSummary:
    """Read a whole file in blocks. Raises MediaError (missing, unreadable, empty)."""
    digest, power, mixed, samples, total = hashlib.sha256(), 0.0, 0.0, 0, np.zeros(0)
    with _opened(path) as file:
        rate, channels = file.samplerate, file.channels
        for block in _checked(_blocks(file), path):
            digest.update(block.astype("<f4", copy=False).tobytes())
            power += float(np.square(block, dtype=np.float64).sum())
            mixed += float(np.square(block.mean(axis=1, dtype=np.float64)).sum())
            total = block.sum(axis=0, dtype=np.float64) + (total if samples else 0.0)
            samples += len(block)
        _require_end(path, file, samples)
    digest.update(f"audio {rate} {channels}".encode())
    levels = [(whole / count) ** 0.5 for whole, count in ((power, samples * channels), (mixed, samples))]
    heard = max(0.0, levels[0] ** 2 - float(np.square(total / samples).mean())) ** 0.5
    levels = [heard, heard] if heard < CONSTANT * levels[0] else levels
    return SoundSummary(rate, channels, samples, digest.hexdigest(), *levels)


def read_audio(path: MediaFile) -> tuple[np.ndarray, int]:
    """(float32 [C, T], rate) of the whole file. Raises MediaError (missing, unreadable, empty)."""
    with _opened(path) as file:
        samples = np.concatenate(list(_checked(_blocks(file), path)))
        _require_end(path, file, len(samples))
        return np.ascontiguousarray(samples.T), file.samplerate


def read_mono(path: MediaFile, seconds: float) -> tuple[np.ndarray, int]:
    """(float32 [1, T], rate): the mean of the channels over the first seconds, whatever number of channels it is of."""
    with _opened(path) as file:
        most = max(1, round(seconds * file.samplerate))
        mixed = [block.mean(axis=1, dtype=np.float32) for block in _checked(_blocks(file, most), path)]
        samples = np.concatenate(mixed)
        if len(samples) < most:
            _require_end(path, file, len(samples))
        return samples[None], file.samplerate


def load_audio(path: MediaFile, rate: int, channels: int) -> np.ndarray:
    """float32 [channels, T] at `rate` Hz, clipped to -1..1; T = ceil(samples * rate / file's rate)."""
    return load_clip(path, rate, channels, None)[0]


def load_clip(
    path: MediaFile, rate: int, channels: int, seconds: float | None, crop: str = "first"
) -> tuple[np.ndarray, bool]:
    """(float32 [channels, T] at `rate` Hz of at most `seconds`, whether the sound is longer).

    The same samples as `clip` of the whole sound, from the part of the file that they come from. Memory is that of
    the clip in the file's rate and the codec's channels.
    """
    with _opened(path) as file:
        up, down = _ratio(file.samplerate, rate, path)
        total = _frames(path, file)
        if not total:
            next(_checked(_blocks(file), path))  # which says that it is empty
        length = -(-total * up // down)
        start, end = _span(length, rate, seconds, crop)
        # A part begins at a multiple of `down`, where input and output samples fall together.
        reach = HALF_FILTER * max(up, down) // up + 2
        first = max(0, start * down // up - reach) // down * down
        last = min(total, -(-end * down // up) + reach)
        wave = _part(path, file, first, last, channels)
        wave = _resampled(wave, up, down)
    begin = start - first * up // down
    return _full_scale(wave[:, begin : begin + end - start]), end - start < length


def convert(wave: np.ndarray, original: int, rate: int, channels: int) -> np.ndarray:
    """float32 [C, T] at `original` Hz -> float32 [channels, T'] at `rate` Hz, by RESAMPLER."""
    common = gcd(original, rate)
    return _full_scale(_resampled(_mixed(wave.T, channels).T, rate // common, original // common))


def clip(wave: np.ndarray, rate: int, seconds: float, crop: str = "first") -> tuple[np.ndarray, int]:
    """(wave cut to at most `seconds`, start sample). Shorter waves stay as they are: nothing is padded.

    `crop` is "first" or "center". The cut is made here, on the waveform: cutting codes would tear codec
    chunks.
    """
    start, end = _span(wave.shape[1], rate, seconds, crop)
    return wave[:, start:end], start


def _span(length: int, rate: int, seconds: float | None, crop: str) -> tuple[int, int]:
    """(start, end) of the clip in a sound of `length` samples."""
    if crop not in CROPS:
        raise UserError("unknown crop", found=repr(crop), expected=" or ".join(CROPS))
    keep = length if seconds is None else max(1, round(seconds * rate))
    start = max(0, length - keep) // 2 if crop == "center" else 0
    return start, min(start + keep, length)


def _ratio(original: int, rate: int, path: MediaFile) -> tuple[int, int]:
    """(up, down) of a resampling whose filter fits: 200,000 is any rate up to 200 kHz, and higher ones in use."""
    common = gcd(original, rate)
    up, down = rate // common, original // common
    if max(up, down) > 200_000:
        raise _unreadable("sample rate", path, f"{original} Hz", "a rate in use, as 192000", "resample the file")
    return up, down


def _resampled(wave: np.ndarray, up: int, down: int) -> np.ndarray:
    if up == down:
        return wave
    from scipy.signal import resample_poly  # takes half a second to load: only where something is resampled

    return resample_poly(wave.astype(np.float64), up, down, axis=1)


def _full_scale(wave: np.ndarray) -> np.ndarray:
    return np.clip(wave, -1.0, 1.0).astype(np.float32)


def _mixed(block: np.ndarray, channels: int) -> np.ndarray:
    """[T, C] -> [T, channels]: as it is, or the channels' mean in each."""
    if block.shape[1] == channels:
        return block
    return np.repeat(block.mean(axis=1, keepdims=True, dtype=np.float64), channels, axis=1)


@contextmanager
def _opened(path: MediaFile) -> Iterator[Sound]:
    """The open sound; whatever a decoder raises inside the block is an unreadable one."""
    existing(path)
    try:
        with soundfile.SoundFile(readable(path)) as file:
            if file.format not in FORMATS:
                raise _unreadable(
                    "a format whose end cannot be checked", path, file.format, " ".join(FORMATS), "convert it to flac"
                )
            if not RATES[0] <= file.samplerate <= RATES[1]:
                expected = f"{RATES[0]} to {RATES[1]} Hz"
                raise _unreadable("sample rate", path, f"{file.samplerate} Hz", expected, "correct the file's header")
            if lost := _structure(path):
                raise _cut_off(path, lost)
            yield _segment(path, file) if isinstance(path, Segment) else file
    except UserError:
        raise
    except Exception as error:  # soundfile asks for the format of a file named .raw by TypeError
        raise _unreadable(
            "not a readable sound",
            path,
            said(error, path),
            f"a file that soundfile decodes ({', '.join(FORMATS)})",
            "re-encode or remove it",
        ) from error


def _segment(path: Segment, file: soundfile.SoundFile) -> _Cut:
    """The part of an open recording, if it is in there."""
    if not file.seekable():
        found = f"{file.format} {file.subtype}"
        raise _unreadable("a recording that cannot be sought", path, found, "one that can", "convert it to flac")
    rate, total = file.samplerate, file.frames
    first = round(path.offset * rate)
    last = total if path.duration is None else round((path.offset + path.duration) * rate)
    if first >= total or last > total + BEHIND * rate or last <= first:
        end = "its end" if path.duration is None else f"{path.offset + path.duration:.10g} s"
        raise MediaError(
            "bad_line",
            "the segment has no sample" if first < total and last <= first else "the segment is not in the recording",
            where=path.name,
            found=f"{path.offset:.10g} s to {end}",
            expected=f"a part of its {total / rate:.10g} s",
            fix="correct offset and duration",
        )
    return _Cut(file, first, min(last, total) - first)


def _structure(path: MediaFile) -> str:
    """`missing_structure`; of a recording with many segments it is asked once."""
    if not isinstance(path, Segment):
        return missing_structure(path)
    if not isinstance(path.whole, Path):
        return missing_structure(path.whole)
    found = path.stat()
    return _structure_once(path.whole, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=256)
def _structure_once(path: Path, size: int, changed: int) -> str:
    return missing_structure(path)


def _blocks(file: Sound, most: int | None = None) -> Iterator[np.ndarray]:
    """float32 [n, C], one after another, of at most `most` samples together."""
    size, left = max(1, BLOCK // file.channels), most
    while left is None or left > 0:
        block = file.read(size if left is None else min(size, left), dtype="float32", always_2d=True)
        if not len(block):
            return
        left = None if left is None else left - len(block)
        yield block


def _checked(blocks: Iterator[np.ndarray], path: MediaFile) -> Iterator[np.ndarray]:
    """The blocks, if they are a sound: not empty, finite, and not far beyond full scale."""
    loud, numbers, peak = 0, 0, 0.0
    for block in blocks:
        if not np.isfinite(block).all():
            raise _unreadable(
                "sound with NaN or infinite samples",
                path,
                "non-finite samples",
                "finite numbers",
                "re-encode or remove it",
            )
        size = np.abs(block)
        loud, numbers, peak = (
            loud + int(np.count_nonzero(size > OVER)),
            numbers + block.size,
            max(peak, float(size.max())),
        )
        yield block
    if not numbers:
        raise MediaError(
            "empty",
            "sound without samples",
            where=path.name,
            found="0 samples",
            expected="at least one sample",
            fix="remove the record",
        )
    if loud / numbers > LOUD:
        found = f"{loud / numbers:.0%} of them, up to {peak:.3g}"
        expected = f"at most {LOUD:.0%} beyond {OVER} of it"
        raise _unreadable("samples beyond full scale", path, found, expected, "scale it down")


def _frames(path: MediaFile, file: Sound) -> int:
    """How many samples each channel has. MP3 and Ogg are decoded for it: their headers may be wrong."""
    if file.format in COUNTED or isinstance(file, _Cut):
        return file.frames
    with soundfile.SoundFile(readable(path)) as again:
        samples = sum(len(block) for block in _blocks(again))
        _require_end(path, again, samples)
    return samples


def _part(path: MediaFile, file: Sound, first: int, last: int, channels: int) -> np.ndarray:
    """[channels, last - first] of the open file, from its beginning on where its seeking is not exact."""
    if first and (file.format in COUNTED or isinstance(file, _Cut)):
        file.seek(first)
        first, last = 0, last - first
    parts, at = [], 0
    for block in _checked(_blocks(file, last), path):
        if at + len(block) > first:
            parts.append(_mixed(block[max(0, first - at) :], channels))
        at += len(block)
    if at < last:
        raise _cut_off(path, f"{last - at} samples less than its header says")
    return np.concatenate(parts).T


def _require_end(path: MediaFile, file: Sound, samples: int) -> None:
    if isinstance(file, _Cut):
        lost = f"{file.frames - samples} samples of the segment" if samples < file.frames else ""
    else:
        lost = missing_end(path, samples, file.samplerate, file.frames)
    if lost:
        raise _cut_off(path, lost)


def _cut_off(path: MediaFile, lost: str) -> MediaError:
    fix = "fetch it again, or re-encode what is there"
    return _unreadable("the sound is cut off", path, lost, "the whole file", fix)


def _unreadable(what: str, path: MediaFile, found: str, expected: str, fix: str) -> MediaError:
    return MediaError("unreadable", what, where=path.name, found=found, expected=expected, fix=fix)
