"""Perceptual fingerprints: media that look or sound the same have near ones, whatever file they are in.

A fingerprint is a row of int8. Two media are near duplicates where the Euclidean distance of their rows is at most NEAR
of their modality; for pictures that is a share of the contrast of the plainer one, since what a lossy format loses
grows with the contrast, and so does what tells two drawings apart. They are found through scipy's k-d tree.

- picture: the low frequencies (8 x 8 of a discrete cosine transform, as in pHash, but with their size and for colour
  too) of luma and both chroma channels of a 32 x 32 pixel version. pHash's 64 bits do not tell a red disc from a green
  one, and the bits of plain ground are those of its noise.
- sound: the low frequencies (12 x 12) of log amplitudes in 24 bands and 24 parts of its first 30 seconds, and its
  duration.

Caught: another format or quality, another size by a few pixels, another depth or rate, a changed level of up to about
1 dB, a few samples more or less. Not caught: a mirrored, cropped or rotated picture, a part of a longer recording.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import fft

from mmpt.store.tasks import MODALITIES
from mmpt.store.tensors import load_tensors, save_tensors

FILE_NAME = "fingerprints.safetensors"
SIDE, KEPT = 32, 8
UNIT = 0.5
"""Grey levels (of the picture's 32 x 32 pixels, root mean square) that a step of a picture's int8 stands for."""
PARTS, BANDS, KEPT_SOUND = 24, 24, 12
LOWEST, HIGHEST = 60.0, 7600.0  # Hz
HEARD = 30.0  # seconds of a long recording that its fingerprint is of
SILENT = 1e-3  # amplitude, 60 dB under full scale
UNIT_SOUND = 0.02
"""Natural log amplitude, root mean square over bands and parts, that a step of a sound's int8 stands for."""
LENGTHS = {"image": 3 * KEPT * KEPT, "audio": KEPT_SOUND * KEPT_SOUND + 1}
NEAR = {"image": 0.26, "audio": 7.5}
"""Modality -> distance up to which two media are near duplicates; image: as a share of the contrast. Measured, largest
of the same medium and smallest of two others: pictures, 120 real ones 0.20 (JPEG quality 75; at 50: 0.22) and 0.47, all
360 generated drawings 0.23 (at 50: 0.31) and 0.34; sounds, 40 real ones 4.7 (a tenth quieter; ogg: 4.4) and 18.5, all
216 generated ones 6.9 (ogg) and 8.2."""
LEAST = {"image": 6.0, "audio": 5.0}
"""Modality -> how far a fingerprint must be from that of a plain picture or of silence, in steps. What is plain or
silent has no fingerprint (a row of NONE): all blank pictures look alike and tell nothing."""
NONE = -128
FIRST = 16  # columns of the tree; distances over fewer columns are never larger, so none is missed


def picture_fingerprint(pixels: np.ndarray) -> np.ndarray:
    """int8 [192] of uint8 [H, W, 3]."""
    small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR).convert("YCbCr")
    channels = np.asarray(small, np.float32).transpose(2, 0, 1) - 128
    waves = fft.dctn(channels, axes=(1, 2), norm="ortho")[:, :KEPT, :KEPT] / SIDE
    plain = waves.copy()
    plain[:, 0, 0] = 0
    return _row(waves.ravel(), plain, UNIT, "image")


def sound_fingerprint(wave: np.ndarray, rate: int, seconds: float | None = None) -> np.ndarray:
    """int8 [145] of float32 [channels, T] at `rate` Hz, the first HEARD seconds of a sound or all of it.

    Args:
        seconds: duration of the whole sound; None: that of the wave.
    """
    mels = _log_bands(wave.mean(axis=0, dtype=np.float32), rate) - np.log(SILENT)
    waves = fft.dctn(mels, norm="ortho")[:KEPT_SOUND, :KEPT_SOUND] / np.sqrt(PARTS * BANDS)
    duration = np.log(seconds or wave.shape[1] / rate)  # 2 % of the duration is a step
    return _row(np.append(waves.ravel(), duration), waves, UNIT_SOUND, "audio")


def _row(values: np.ndarray, telling: np.ndarray, unit: float, modality: str) -> np.ndarray:
    if np.sqrt(np.sum(telling**2)) < LEAST[modality] * unit:
        return np.full(LENGTHS[modality], NONE, np.int8)
    return np.clip(np.rint(values / unit), -127, 127).astype(np.int8)


def _log_bands(mono: np.ndarray, rate: int) -> np.ndarray:
    """float32 [PARTS, BANDS]: log root mean square amplitude of each band in each part of the sound."""
    window = max(8, rate // 50)
    hop = max(1, min(window // 2, len(mono) // (6 * PARTS)))
    padded = np.pad(mono, (window // 2, window))
    views = np.lib.stride_tricks.sliding_window_view(padded, window)[: len(mono) : hop]  # centred on i * hop
    power = abs(fft.rfft(views * np.hanning(window).astype(np.float32), axis=1)) ** 2 * (4 / window) ** 2
    edges = np.geomspace(LOWEST, HIGHEST, BANDS + 1)
    band = np.searchsorted(edges, np.arange(power.shape[1]) * rate / window, side="right") - 1
    inside = (band >= 0) & (band < BANDS)
    sums = _by_band(power[:, inside], band[inside])
    # Each frame counts for the two parts whose centres it lies between, so that a few samples more move nothing.
    place = np.arange(len(power)) * hop / len(mono) * PARTS - 0.5
    share = np.maximum(0, 1 - abs(place - np.arange(PARTS)[:, None]))
    mean = share @ sums / np.maximum(share.sum(axis=1, keepdims=True), 1e-9)
    return np.log(np.sqrt(mean) + SILENT).astype(np.float32)


def _by_band(power: np.ndarray, band: np.ndarray) -> np.ndarray:
    """float64 [frames, BANDS]: power summed over the bins of each band."""
    sums = np.zeros((len(power), BANDS))
    starts = np.flatnonzero(np.diff(band, prepend=-1))
    if len(starts):
        sums[:, band[starts]] = np.add.reduceat(power, starts, axis=1)
    return sums


class Fingerprints:
    """The fingerprints of a manifest's records, in its order within each modality."""

    def __init__(self) -> None:
        self._data = {modality: bytearray() for modality in LENGTHS}

    def add(self, modality: str, row: np.ndarray) -> None:
        """The fingerprint of one more record."""
        self._data[modality] += row.tobytes()

    def save(self, folder: Path) -> None:
        """Writes fingerprints.safetensors: int8 [records of the modality, LENGTHS] for each modality."""
        tensors = {
            modality: np.frombuffer(data, np.int8).reshape(-1, LENGTHS[modality])
            for modality, data in self._data.items()
        }
        save_tensors(folder / FILE_NAME, tensors, {})


def load_near_duplicates(folder: Path, modalities: np.ndarray) -> np.ndarray:
    """`near_duplicates` of what `Fingerprints.save` wrote."""
    return near_duplicates(load_tensors(folder / FILE_NAME), modalities)


def contrasts(rows: np.ndarray) -> np.ndarray:
    """float32 [n]: length of the pictures' rows int8 [n, 192] without the mean of each channel."""
    return np.sqrt((_waves(rows) ** 2).sum(axis=1))


def _waves(rows: np.ndarray) -> np.ndarray:
    """float32 [n, 192]: pictures' rows with 0 for the mean of each channel."""
    waves = rows.astype(np.float32).reshape(-1, 3, KEPT * KEPT)
    waves[:, :, 0] = 0
    return waves.reshape(rows.shape)


def _are_near(rows: np.ndarray, pairs: np.ndarray, modality: str) -> np.ndarray:
    """bool [pairs]: whether the two rows of each pair are near."""
    one, other = (rows[pairs[:, side]].astype(np.float32) for side in range(2))
    apart = np.sqrt(((one - other) ** 2).sum(axis=1))
    if modality == "audio":
        return apart <= NEAR[modality]
    return apart <= NEAR[modality] * np.minimum(contrasts(one), contrasts(other))


def near_pairs(rows: np.ndarray, modality: str) -> np.ndarray:
    """int64 [pairs, 2]: places of near duplicates. Of rows that are equal, each is paired with the first alone.

    Args:
        rows: int8 [n, LENGTHS[modality]].
    """
    from scipy.spatial import cKDTree

    known = np.flatnonzero(rows[:, 0] != NONE)
    unique, first, group = np.unique(rows[known], axis=0, return_index=True, return_inverse=True)
    equal = np.stack([known[first[group.ravel()]], known], axis=1)
    pairs = [equal[equal[:, 0] != equal[:, 1]]]
    if len(unique) > 1:
        # Pictures: of vectors of length 1 the distance is at most that of the rows over their mean length.
        told = unique.astype(np.float32) if modality == "audio" else _waves(unique) / contrasts(unique)[:, None]
        telling = np.argsort(-told.var(axis=0), kind="stable")[:FIRST]
        close = cKDTree(told[:, telling]).query_pairs(NEAR[modality], output_type="ndarray")
        pairs.append(known[first[close[_are_near(unique, close, modality)]]])
    return np.concatenate(pairs).astype(np.int64)


def near_duplicates(fingerprints: Mapping[str, np.ndarray], modalities: np.ndarray) -> np.ndarray:
    """int64 [pairs, 2]: places in the manifest of near duplicates.

    Args:
        fingerprints: modality -> int8 [records of it, LENGTHS].
        modalities: int [records], 0 for audio and 1 for image, of all records of the manifest.
    """
    found = [np.zeros((0, 2), np.int64)]
    for kind, modality in enumerate(MODALITIES):
        places = np.flatnonzero(modalities == kind)
        if len(places):
            found.append(places[near_pairs(fingerprints[modality], modality)])
    return np.concatenate(found)
