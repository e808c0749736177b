"""Is a decode better than trivial versions of itself: mirrored, turned, rolled by a token, constant, channels swapped?

A codec whose decoder mirrors pictures, swaps red and blue or is one frame late has a fair PSNR on plain media. But
the same change, done once more, brings its output nearer to the medium. So each decode is compared with changed
versions of itself, by a distance of ours and not by the codec's own metric:

- pictures: root mean square difference of 32 x 32 pixel versions, in grey levels (0..255); the texture that a codec
  makes up does not count, layout and colour do;
- sounds: mean absolute difference of natural log-mel amplitudes of each channel (`audio_quality.log_mel_l1`).

A change counts for an item only where it moves the medium itself by at least VISIBLE or AUDIBLE: what is symmetric,
steady, flat or silent is left out, and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

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
CONSTANT = "constant"


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


def compare(codec: Any, modality: str, media: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> list[Comparison]:
    """Compare the decodes of a codec with their media.

    A codec whose decode keeps what its medium shows, and not its pixels or samples, says `reconstructs = False`
    (protocol.py). Each decode is then held against the decode of another item, by the codec's own metric.
    """
    pairs = list(zip(media, outputs, strict=True))
    if not getattr(codec, "reconstructs", True):
        others = [*outputs[1:], *outputs[:1]]
        return [_semantic(codec, *pair, other) for pair, other in zip(pairs, others, strict=True)]
    if modality == "audio":
        return [compare_sound(*pair, codec.sample_rate, codec.frame_rate) for pair in pairs]
    return [compare_picture(*pair, codec.grid) for pair in pairs]


def _semantic(codec: Any, medium: np.ndarray, output: np.ndarray, other: np.ndarray) -> Comparison:
    own, swapped = (codec.quality(medium, one)[codec.quality_metric] for one in (output, other))
    margin = (own - swapped) / max(abs(own), 1e-9)
    return Comparison(-own, {"the decode of another item": margin, CONSTANT: margin})


@dataclass(frozen=True)
class Summary:
    """All comparisons of a modality.

    Args:
        items: those with a change that counts.
        better: share of the items that a change makes better by BETTER or more: that is how a wrong decode looks.
        worst, worst_change: the least margin of any item, and its change; None without items.
        mean, mean_change: the least mean margin of a change that counts for LEAST items or more; None without one.
        gain: median margin over the constant version: 1 for a perfect codec, 0 for one that gives a constant.
        varied: items that are not constant themselves, which the gain rests on.
    """

    items: int
    better: float | None
    worst: float | None
    worst_change: str
    mean: float | None
    mean_change: str
    gain: float | None
    varied: int


def compare_picture(reference: np.ndarray, output: np.ndarray, grid: tuple[int, int]) -> Comparison:
    """Compare uint8 [S, S, 3] `output` with uint8 [H, W, 3] `reference`; `grid`: rows and columns of its tokens."""
    medium, decode = (resize(one, SIDE).astype(np.float64) for one in (reference, output))
    changed = zip(_pictures(medium, grid), _pictures(decode, grid), strict=True)
    return _compared(medium, decode, changed, _rms, VISIBLE)


def compare_sound(reference: np.ndarray, output: np.ndarray, rate: int, frame_rate: float) -> Comparison:
    """Compare float32 [channels, T] waves of one length at `rate` Hz; `frame_rate`: token frames per second."""
    length = min(reference.shape[1], output.shape[1])
    medium, decode = (log_mels(one[:, :length], rate) for one in (reference, output))
    changed = zip(_sounds(medium, frame_rate), _sounds(decode, frame_rate), strict=True)
    return _compared(medium, decode, changed, _mean_difference, AUDIBLE)


def summarise(found: Sequence[Comparison]) -> Summary:
    """What gate S3 asks of all comparisons of a modality.

    The constant version counts for the gain alone: on noise-like media it is nearer than a good decode.
    """
    counted = [[m for change, m in one.margins.items() if change != CONSTANT] for one in found]
    least = [min(margins) for margins in counted if margins]
    by_change: dict[str, list[float]] = {}
    for one in found:
        for change, margin in one.margins.items():
            by_change.setdefault(change, []).append(margin)
    gains = by_change.pop(CONSTANT, [])
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
    return float(np.mean(abs(one - other)))
