"""Is a decode better than trivial versions of itself: mirrored, turned, rolled by a token, constant, channels swapped?

A codec whose decoder mirrors pictures, swaps red and blue or is one frame late has a fair PSNR on plain media. But
the same change, done once more, brings its output nearer to the medium. So each decode is compared with changed
versions of itself, by a distance of ours and not by the codec's own metric:

- pictures: root mean square difference of 32 x 32 pixel versions, in grey levels (0..255); the texture that a codec
  makes up does not count, layout and colour do;
- sounds: mean absolute difference of natural log-mel amplitudes of each channel (`audio_quality.log_mel_l1`).

One more change is the decode of another item, so that flat pictures and steady sounds have one too: a decoder without
weights, or one that mixes items up, is no nearer to a medium than to the next one.

A change counts for an item only where it moves the medium itself by at least VISIBLE or AUDIBLE: what is symmetric,
steady, flat or silent is left out, and counted. In a sound that is noise (rain, wind) no moment differs from the next
by more than chance; a good codec makes other noise of the same colour, so that its mean over time is compared alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np

from mmpt.codecs.audio_quality import FRAMES_PER_SECOND, log_mels
from mmpt.codecs.image_quality import resize

SIDE = 32
VISIBLE = 10.0
"""Grey levels. On the generated drawings and 128 real pictures a change that an eye can name moves 20 and more."""
AUDIBLE = 0.2
"""Natural log amplitude, 1.7 dB in the mean over all bands and times."""
RESOLVED = 0.5
"""Share of a decode's own distance below which a change of the medium is finer than what the codec keeps. A decoder
that makes the change itself has a distance of about the change, so it is not left out."""
LEAST = 4
"""Items that the mean margin of a change rests on."""
BETTER = 0.3
"""Margin below 0 from which a decode counts as changed. Codecs fitted on 45 real pictures or 36 real sounds, down to 16
codes, have -0.21 at worst; the same with red and blue swapped, tokens rolled, or mirrored have -0.48 to -0.98."""
CONSTANT, ANOTHER = "constant", "the decode of another item"
IN_TIME = (CONSTANT, "reversed", "a frame later", "a frame earlier")
APART = 4
"""Frames between two moments whose windows do not overlap (audio_quality.log_mels)."""
NOISE = 1.25
"""Distance of a sound from itself APART frames later, over its distance from its mean: from here on it is noise.
Independent frames have 1.41, 24 clips of filtered noise and drops 1.39 to 1.47; of 68 real recordings a median of 0.75
(0.27 to 1.63), measured 2026-11-30."""


@dataclass(frozen=True)
class Comparison:
    """One item's decode against changed versions of itself.

    Args:
        distance: of the decode from its medium, in the unit of its modality.
        margins: change -> (distance of the changed decode - distance) / how far the change moves the medium. 1 for a
            perfect decode, below 0 where the change makes the decode better. Only changes that count.
        left_out: changes that move the medium too little to count.
    """

    distance: float
    margins: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """What is compared of one item: its medium and its decode, [32, 32, 3] or log-mels [channels, frames, bands]."""

    medium: np.ndarray
    decode: np.ndarray

    def colour(self) -> View:
        """The means over the frames of log-mels."""
        return View(*(mels.mean(axis=1, keepdims=True) for mels in (self.medium, self.decode)))


@dataclass(frozen=True)
class Summary:
    """All comparisons of a modality.

    Args:
        items: those with a change that counts.
        better: share of the items that a change makes better by BETTER or more: that is how a wrong decode looks.
        worst, worst_change: the least margin of any item, and its change; None without items.
        mean, mean_change: the least mean margin of a change that counts for LEAST items or more; None without one.
        gain: median margin over the constant version, of flat, steady and noisy items over the decode of another item:
            1 for a perfect codec, 0 for one that gives a constant.
        varied: items that the gain rests on.
    """

    items: int
    better: float | None
    worst: float | None
    worst_change: str
    mean: float | None
    mean_change: str
    gain: float | None
    varied: int


def picture_view(reference: np.ndarray, output: np.ndarray) -> View:
    """Of uint8 [H, W, 3] `reference` and uint8 [S, S, 3] `output`."""
    return View(*(resize(one, SIDE).astype(np.float64) for one in (reference, output)))


def sound_view(reference: np.ndarray, output: np.ndarray, rate: int) -> View:
    """Of float32 [channels, T] waves at `rate` Hz, over the shorter one's length."""
    length = min(reference.shape[1], output.shape[1])
    return View(*(log_mels(one[:, :length], rate) for one in (reference, output)))


def compare_picture(one: View, grid: tuple[int, int], other: View | None = None) -> Comparison:
    """Compare a picture; `grid`: rows and columns of its tokens, `other`: another item."""
    changed = [*_pairs(one, lambda picture: _pictures(picture, grid)), *_another(one, other)]
    return _compared(one.medium, one.decode, changed, _rms, VISIBLE)


def compare_sound(one: View, frame_rate: float, other: View | None = None) -> Comparison:
    """Compare a sound; `frame_rate`: token frames per second, `other`: another item."""
    noise = is_noise(one.medium)
    if noise:
        one, other = one.colour(), None if other is None else other.colour()
    changed = [*_pairs(one, lambda mels: _sounds(mels, frame_rate)), *_another(one, other)]
    kept = [pair for pair in changed if not (noise and pair[0][0] in IN_TIME)]
    found = _compared(one.medium, one.decode, kept, _mean_difference, AUDIBLE)
    return replace(found, left_out=(*found.left_out, *(IN_TIME if noise else ())))


def is_noise(mels: np.ndarray) -> bool:
    """Whether log-mel amplitudes [channels, frames, bands] differ from moment to moment by chance alone: see NOISE."""
    spread = _mean_difference(mels, np.broadcast_to(mels.mean(axis=1, keepdims=True), mels.shape))
    return mels.shape[1] > APART and _mean_difference(mels, np.roll(mels, APART, axis=1)) >= NOISE * spread > 0


def summarise(found: Sequence[Comparison]) -> Summary:
    """What gate S3 asks of all comparisons of a modality.

    The constant version counts for the gain alone. The decode of another item counts for the mean, and where nothing
    else counts: a decoder that fills quiet bands with noise is often farther from its medium than another item is.
    """
    counted = [
        [m for change, m in one.margins.items() if change not in (CONSTANT, ANOTHER)]
        or [m for change, m in one.margins.items() if change == ANOTHER]
        for one in found
    ]
    least = [min(margins) for margins in counted if margins]
    by_change: dict[str, list[float]] = {}
    for one in found:
        for change, margin in one.margins.items():
            by_change.setdefault(change, []).append(margin)
    by_change.pop(CONSTANT, None)
    against = ((one.margins, CONSTANT if CONSTANT in one.margins else ANOTHER) for one in found)
    gains = [margins[change] for margins, change in against if change in margins]
    worst = min(((min(some), change) for change, some in by_change.items()), default=(None, ""))
    means = [(float(np.mean(some)), change) for change, some in by_change.items() if len(some) >= LEAST]
    return Summary(
        items=len(least),
        better=float(np.mean([margin <= -BETTER for margin in least])) if least else None,
        worst=worst[0],
        worst_change=worst[1],
        mean=min(means, default=(None, ""))[0],
        mean_change=min(means, default=(None, ""))[1],
        gain=float(np.median(gains)) if gains else None,
        varied=len(gains),
    )


def _compared(medium, decode, changed, distance, least) -> Comparison:
    own, margins, left_out = distance(medium, decode), {}, []
    for (change, other_medium), (_, other_decode) in changed:
        moved = distance(medium, other_medium)
        if moved < max(least, own * RESOLVED):
            left_out.append(change)
        else:
            margins[change] = (distance(medium, other_decode) - own) / moved
    return Comparison(own, margins, tuple(left_out))


def _pairs(one: View, changes: Callable) -> Iterator[tuple[tuple[str, np.ndarray], tuple[str, np.ndarray]]]:
    """(name, changed medium), (name, changed decode) of each change."""
    return zip(changes(one.medium), changes(one.decode), strict=True)


def _another(one: View, other: View | None) -> list[tuple[tuple[str, np.ndarray], tuple[str, np.ndarray]]]:
    return [] if other is None else [((ANOTHER, other.medium), (ANOTHER, other.decode))]


def _pictures(picture: np.ndarray, grid: tuple[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, changed version) of float64 [SIDE, SIDE, 3]."""
    yield CONSTANT, np.broadcast_to(picture.mean(axis=(0, 1)), picture.shape)
    for turns in range(4):
        turned = np.rot90(picture, turns)
        if turns:
            yield f"turned by {90 * turns} degrees", turned
        yield ("mirrored" if not turns else f"mirrored and turned by {90 * turns} degrees"), turned[:, ::-1]
    for axis, name in enumerate(("down", "right")):
        step = max(1, round(SIDE / grid[axis]))
        yield f"rolled {name} by a token", np.roll(picture, step, axis)
        yield f"rolled {('up', 'left')[axis]} by a token", np.roll(picture, -step, axis)
    for order in permutations(range(3)):
        if order != (0, 1, 2):
            yield "channels " + "".join("RGB"[one] for one in order), picture[..., order]


def _sounds(mels: np.ndarray, frame_rate: float) -> Iterator[tuple[str, np.ndarray]]:
    """(name, changed version) of log-mel amplitudes float64 [channels, frames, bands]."""
    step = max(1, round(FRAMES_PER_SECOND / frame_rate))
    yield CONSTANT, np.broadcast_to(mels.mean(axis=1, keepdims=True), mels.shape)
    yield "reversed", mels[:, ::-1]
    yield "a frame later", np.roll(mels, step, axis=1)
    yield "a frame earlier", np.roll(mels, -step, axis=1)
    if len(mels) > 1:
        yield "channels swapped", mels[::-1]


def _rms(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.mean((one - other) ** 2)))


def _mean_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Of log-mel amplitudes, over the shorter one's frames."""
    frames = min(one.shape[1], other.shape[1])
    return float(np.mean(abs(one[:, :frames] - other[:, :frames])))
