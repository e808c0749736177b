"""Writes decoded sounds and pictures, and checks the files with other libraries than those that wrote them.

Sounds are written by soundfile as PCM_16 (a float wav carries a time) and read by scipy; pictures are written
by Pillow and read by the small PNG reader below.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from scipy.io import wavfile

SILENT = 0.01  # RMS under this share of the reconstruction's
CLIPPED = 0.01  # share of samples at full scale, beyond that of the reconstruction
FULL_SCALE = 32767 / 32768
UNREADABLE = (ValueError, OSError, zlib.error, struct.error)  # what the readers raise for a file that is none


def write_wav(path: Path, wave: np.ndarray, rate: int) -> None:
    """`wave` float [C, T] in -1..1 (beyond is cut), at `rate` Hz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(wave, -1.0, 1.0).T, rate, format="WAV", subtype="PCM_16")


def write_png(path: Path, pixels: np.ndarray) -> None:
    """`pixels` uint8 [H, W, 3]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels, np.uint8), "RGB").save(path, format="PNG")


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """float32 [C, T] and the rate in Hz. ValueError or OSError for what is no readable PCM_16 wav."""
    rate, samples = wavfile.read(path)
    if samples.dtype != np.int16:
        raise ValueError(f"{samples.dtype} samples, expected int16")
    return np.atleast_2d(samples.T).astype(np.float32) / 32768.0, int(rate)


def clipped_share(wave: np.ndarray) -> float:
    """Share of the samples of float [C, T] that are at full scale or beyond it."""
    return float(np.mean(np.abs(wave) >= FULL_SCALE))


def wav_faults(
    path: Path,
    *,
    rate: int,
    channels: int,
    samples: int | None,
    reconstruction_rms: float,
    reconstruction_clipped: float = 0.0,
) -> list[str]:
    """What is wrong with a written sound: of missing, unreadable, wrong_form, silent, constant, clipped.

    Level and clipped share are compared with the reconstruction's: a recording that clips is learned as it is.
    """
    if not path.is_file():
        return ["missing"]
    try:
        wave, found_rate = read_wav(path)
    except UNREADABLE:
        return ["unreadable"]
    faults = []
    if found_rate != rate or wave.shape[0] != channels or samples not in (None, wave.shape[1]) or not wave.size:
        faults.append("wrong_form")
    if wave.size:
        faults += ["silent"] * bool(np.sqrt(np.mean(wave**2)) < SILENT * reconstruction_rms)
        faults += ["constant"] * bool(wave.max() == wave.min())
        faults += ["clipped"] * bool(clipped_share(wave) > CLIPPED + reconstruction_clipped)
    return faults


def png_faults(path: Path, *, size: tuple[int, int]) -> list[str]:
    """What is wrong with a picture of (height, width) `size`: missing, unreadable, wrong_form, constant."""
    if not path.is_file():
        return ["missing"]
    try:
        pixels = read_png(path)
    except UNREADABLE:
        return ["unreadable"]
    return ["wrong_form"] * (pixels.shape[:2] != size) + ["constant"] * bool((pixels == pixels[0, 0]).all())


def read_png(path: Path) -> np.ndarray:
    """uint8 [H, W, 3] of an 8-bit RGB PNG without interlacing, checksums verified; else ValueError."""
    data = path.read_bytes()
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("no PNG signature")
    header, packed, at = b"", b"", 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        (stored,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        if zlib.crc32(kind + body) != stored:
            raise ValueError(f"checksum of chunk {kind!r}")
        header, packed = (body, packed) if kind == b"IHDR" else (header, packed + body if kind == b"IDAT" else packed)
        at += 12 + length
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", header)
    if (depth, colour, interlace) != (8, 2, 0):
        raise ValueError("not 8-bit RGB without interlacing")
    rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + 3 * width)
    return _unfiltered(rows).reshape(height, width, 3)


def _unfiltered(rows: np.ndarray) -> np.ndarray:
    """Undoes the line filters (PNG specification, section 9) of `rows` [H, 1 + bytes], filter first."""
    out = np.zeros((len(rows), rows.shape[1] - 1), np.uint8)
    above = np.zeros(out.shape[1], np.int64)
    for y, row in enumerate(rows):
        line = row[1:].astype(np.int64)
        if row[0] == 2:
            line = (line + above) % 256
        elif row[0] == 1:
            line = line.reshape(-1, 3).cumsum(0).reshape(-1) % 256
        elif row[0] in (3, 4):
            predict = _average if row[0] == 3 else _paeth
            for x in range(len(line)):
                left, corner = (line[x - 3], above[x - 3]) if x >= 3 else (0, 0)
                line[x] = (line[x] + predict(int(left), int(above[x]), int(corner))) % 256
        elif row[0] != 0:
            raise ValueError(f"line filter {row[0]}")
        out[y], above = line, line
    return out


def _average(left: int, up: int, corner: int) -> int:
    return (left + up) // 2


def _paeth(left: int, up: int, corner: int) -> int:
    estimate = left + up - corner
    return min((left, up, corner), key=lambda value: abs(estimate - value))
