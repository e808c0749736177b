"""Reads the attributes of a generated picture or sound back from pixels or samples, by rules.

It knows how the corpus draws and plays (`pictures.py`, `sounds.py`), and nothing of captions, codecs or
models. Each attribute has a value for any input: garbage is read as something, right as often as chance.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.ndimage import median_filter, uniform_filter1d

from mmpt.codecs.media import convert

from .generated import ATTRIBUTES
from .pictures import CENTRE, PICTURE_SIZE, RADIUS, RGB, coverage
from .sounds import EVENT_SECONDS, PITCH_HZ, RMS, SOUND_RATE

MODALITY = {name: modality for modality, attributes in ATTRIBUTES.items() for name in attributes}


def chance(attribute: str) -> float:
    """Return the accuracy of a blind guess: one over the number of values."""
    return 1 / len(ATTRIBUTES[MODALITY[attribute]][attribute])


def read(modality: str, medium: np.ndarray, rate: int = SOUND_RATE) -> dict[str, str]:
    """Read either: `medium` is uint8 [H, W, 3] for "image", float [T] or [C, T] at `rate` Hz for "audio"."""
    return read_picture(medium) if modality == "image" else read_sound(medium, rate)


def read_picture(pixels: np.ndarray) -> dict[str, str]:
    """Read uint8 [H, W, 3]; a picture of another size than 48 x 48 is sampled to it first."""
    picture = _to_size(pixels.astype(np.float64))
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    back = np.median(border, axis=0)
    distance = median_filter(np.sqrt(((picture - back) ** 2).sum(axis=2)), size=3)
    front = _front_colour(picture, distance)
    cover = np.clip((picture - back) @ (front - back) / max(1.0, ((front - back) ** 2).sum()), 0, 1)
    shape, size, centre = _best_shape(cover)
    places = list(CENTRE)
    apart = [np.hypot(centre[0] - x, centre[1] - y) for x, y in CENTRE.values()]
    return {
        "shape": shape,
        "colour": _nearest_colour(front, ATTRIBUTES["image"]["colour"]),
        "size": size,
        "place": places[int(np.argmin(apart))],
        "background": _nearest_colour(back, ATTRIBUTES["image"]["background"]),
    }


def _to_size(picture: np.ndarray) -> np.ndarray:
    rows = (np.arange(PICTURE_SIZE) + 0.5) * picture.shape[0] / PICTURE_SIZE
    columns = (np.arange(PICTURE_SIZE) + 0.5) * picture.shape[1] / PICTURE_SIZE
    return picture[rows.astype(int)][:, columns.astype(int)]


def _front_colour(picture: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The median colour of the pixels that differ most from the ground; of all where they are too few."""
    chosen = distance > max(30.0, 0.75 * np.quantile(distance, 0.99))
    return np.median(picture[chosen] if chosen.sum() >= 12 else picture.reshape(-1, 3), axis=0)


def _nearest_colour(colour: np.ndarray, names: Sequence[str]) -> str:
    return min(names, key=lambda name: float(((colour - np.array(RGB[name])) ** 2).sum()))


@cache
def _templates() -> tuple[list[tuple[str, str]], np.ndarray, np.ndarray]:
    """Every shape and size in the middle: names, coverage [K, 48, 48], its Fourier transform's conjugate."""
    names = [(shape, size) for shape in ATTRIBUTES["image"]["shape"] for size in RADIUS]
    middle = (PICTURE_SIZE / 2, PICTURE_SIZE / 2)
    drawn = np.stack([coverage(shape, middle, RADIUS[size]) for shape, size in names])
    return names, drawn, np.conj(np.fft.rfft2(drawn))


def _best_shape(cover: np.ndarray) -> tuple[str, str, tuple[float, float]]:
    """Slide every template over `cover` [48, 48] (0 ground, 1 shape); return the closest and its centre."""
    names, drawn, transform = _templates()
    overlap = np.fft.irfft2(np.fft.rfft2(cover)[None] * transform, s=cover.shape)
    misfit = (drawn**2).sum(axis=(1, 2))[:, None, None] - 2 * overlap
    best, dy, dx = np.unravel_index(int(np.argmin(misfit)), misfit.shape)
    half = PICTURE_SIZE // 2
    shape, size = names[int(best)]
    return shape, size, (float((dx + half) % PICTURE_SIZE), float((dy + half) % PICTURE_SIZE))


FRAME = 512
HOP = 80
"""Samples of an analysis window (32 ms) and of a step (5 ms)."""
STEPS_PER_OCTAVE = 24
LOWEST_HZ = 80.0
OCTAVES = 6.5
SHORTEST_EVENT = 0.06
GAP_BELOW = 0.2
"""An event ends where the level falls below this share of the sound's loudest level."""


def read_sound(wave: np.ndarray, rate: int) -> dict[str, str]:
    """Read float [T] or [C, T] (channels are averaged) at `rate` Hz; another than the corpus' 16 kHz is resampled:
    a codec gives its own.
    """
    mono = np.atleast_2d(np.asarray(wave, dtype=np.float64)).mean(axis=0)
    if rate != SOUND_RATE:
        mono = convert(mono[None], rate, SOUND_RATE, 1)[0].astype(np.float64)
    mono = np.pad(mono, (0, max(0, FRAME - len(mono))))
    power = _spectrum(mono)
    level = np.sqrt(power.sum(axis=1))
    events = _events(level)
    pitch, slope, width, upper = np.median([_describe(power[a:b]) for a, b in events], axis=0)
    held = np.median([_held(level, a) for a, _ in events])
    loud = np.median([_event_rms(mono, a, b) for a, b in events])
    return {
        "kind": _kind(width, upper, held),
        "pitch": min(PITCH_HZ, key=lambda name: abs(pitch - np.log2(PITCH_HZ[name]))),
        "contour": "rising" if slope > 0.5 else "falling" if slope < -0.5 else "steady",
        "count": ATTRIBUTES["audio"]["count"][min(len(events), 3) - 1],
        "loudness": "loud" if loud > np.sqrt(RMS["quiet"] * RMS["loud"]) else "quiet",
    }


def _spectrum(wave: np.ndarray) -> np.ndarray:
    """Return the power spectrogram, float64 [frames, FRAME // 2 + 1], of the wave padded by half a window."""
    padded = np.pad(wave, FRAME // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    return np.abs(np.fft.rfft(frames * np.hanning(FRAME), axis=1)) ** 2


def _events(level: np.ndarray) -> list[tuple[int, int]]:
    """Cut the level curve [frames] into events; the whole sound is one where nothing stands out."""
    smooth = uniform_filter1d(level, size=5)
    above = np.concatenate([[False], smooth > GAP_BELOW * smooth.max(), [False]])
    edges = np.flatnonzero(np.diff(above.astype(int)))
    spans = [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
    long_enough = [(a, b) for a, b in spans if (b - a) * HOP / SOUND_RATE >= SHORTEST_EVENT]
    return long_enough or [(0, len(level))]


def _event_rms(wave: np.ndarray, start: int, stop: int) -> float:
    return float(np.sqrt(np.mean(wave[start * HOP : max(stop * HOP, start * HOP + 1)] ** 2)))


@cache
def _log_bins() -> np.ndarray:
    """Triangles [FRAME // 2 + 1, bands] that gather the linear bins into bands of equal width in octaves."""
    hz = np.fft.rfftfreq(FRAME, 1 / SOUND_RATE)
    centre = LOWEST_HZ * 2 ** (np.arange(int(OCTAVES * STEPS_PER_OCTAVE)) / STEPS_PER_OCTAVE)
    width = np.maximum(SOUND_RATE / FRAME, centre * (2 ** (1 / STEPS_PER_OCTAVE) - 1))
    return np.maximum(0, 1 - abs(hz[:, None] - centre[None, :]) / width[None, :])


def _describe(power: np.ndarray) -> np.ndarray:
    """Describe one event's power [frames, bins]: log2 of its pitch, glide in octaves, width, upper share.

    Width: the spread in octaves of the power near the pitch. Upper share: of the power, what lies more than
    0.6 octaves over it.
    """
    bands = power @ _log_bins() + 1e-12
    weight = bands.sum(axis=1)
    octave = np.log2(LOWEST_HZ) + np.arange(bands.shape[1]) / STEPS_PER_OCTAVE
    blurred = uniform_filter1d(bands, size=STEPS_PER_OCTAVE // 3, axis=1)
    track = octave[blurred.argmax(axis=1)]
    offset = octave[None, :] - track[:, None]
    near = np.where(abs(offset) <= 0.8, bands, 0)
    mean = (near * offset).sum(axis=1) / near.sum(axis=1)
    spread = np.sqrt((near * (offset - mean[:, None]) ** 2).sum(axis=1) / near.sum(axis=1))
    upper = (bands * (offset > 0.6)).sum(axis=1) / weight
    pitch = track + mean
    return np.array(
        [
            np.average(pitch, weights=np.sqrt(weight)),
            _glide(pitch, np.sqrt(weight)),
            np.average(spread, weights=weight),
            np.average(upper, weights=weight),
        ]
    )


def _glide(pitch: np.ndarray, weight: np.ndarray) -> float:
    """Fit a line through the pitch of each frame, float [frames] in log2 Hz; return its rise."""
    time = np.linspace(-0.5, 0.5, len(pitch))
    time = time - np.average(time, weights=weight)
    return float((weight * time * pitch).sum() / max(1e-9, (weight * time**2).sum()))


def _held(level: np.ndarray, start: int) -> float:
    """Level of the second half of an event that begins at frame `start`, over that of its first half."""
    half = round(EVENT_SECONDS / 2 * SOUND_RATE / HOP)
    first, second = level[start : start + half], level[start + half : start + 2 * half]
    return float(second.mean() / max(first.mean(), 1e-12)) if len(second) else 0.0


def _kind(width: float, upper: float, held: float) -> str:
    return "bell" if held < 0.55 else "hiss" if width > 0.2 else "buzz" if upper > 0.12 else "whistle"
