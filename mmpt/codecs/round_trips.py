"""Decodes of a codec against their media: its own quality, the decode of another item, trivial versions of themselves.

One item is held at a time: of what was added only 32 x 32 pixels or log-mel amplitudes are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mmpt.codecs.image_quality import resize
from mmpt.codecs.trivial_decodes import (
    ANOTHER,
    CONSTANT,
    Comparison,
    View,
    compare_picture,
    compare_sound,
    picture_view,
    sound_view,
)

SILENT = 1e-4
"""Root mean square of a sound, full scale 1, from which on it is heard: 80 dB under full scale."""


class RoundTrips:
    """Round trips of one codec.

    Args:
        codec: of the protocol. modality: audio or image.
    """

    def __init__(self, codec: Any, modality: str):
        self.codec, self.modality = codec, modality
        self.quality: list[dict[str, float]] = []
        """The codec's own measures of each item that is not silent."""
        self.silent = 0
        """Sounds in which there is nothing to keep: SI-SDR has no value there, and a mean would be theirs."""
        self.wins: list[bool] = []
        """Of each: is its decode nearer to its medium than another item's decode, by the codec's own measure."""
        self._views: list[View] = []
        self._semantic: list[Comparison] = []

    def add(self, medium: np.ndarray, output: np.ndarray, other: np.ndarray | None = None) -> None:
        """One medium, its decode, and the decode of another item."""
        if self.modality == "audio" and float(np.sqrt(np.mean(np.square(medium, dtype=np.float64)))) < SILENT:
            self.silent += 1
            return
        own = self._measured(medium, output)
        self.quality.append(own)
        name = self.codec.quality_metric
        swapped = None if other is None else self._measured(medium, other)[name]
        if swapped is not None:
            self.wins.append(own[name] > swapped)
        if reconstructs(self.codec):
            self.look(medium, output)
        elif swapped is not None:
            self._semantic.append(
                _semantic(own[name], swapped, self._measured(medium, _as_output(medium, output))[name])
            )

    def look(self, medium: np.ndarray, output: np.ndarray) -> None:
        """Keep what `comparisons` needs of a medium and its decode; the codec's own measure is not asked."""
        image = self.modality == "image"
        view = picture_view(medium, output) if image else sound_view(medium, output, self.codec.sample_rate)
        self._views.append(view)

    def comparisons(self) -> list[Comparison]:
        """Each decode against changed versions of itself.

        A codec whose decode keeps what its medium shows, and not its pixels or samples, says `reconstructs = False`
        (protocol.py). Its decodes are compared with those of other items alone, by the codec's own measure.
        """
        if not reconstructs(self.codec):
            return self._semantic
        others = [*self._views[1:], *self._views[:1]] if len(self._views) > 1 else [None] * len(self._views)
        pairs = zip(self._views, others, strict=True)
        if self.modality == "audio":
            return [compare_sound(one, self.codec.frame_rate, other) for one, other in pairs]
        return [compare_picture(one, self.codec.grid, other) for one, other in pairs]

    def _measured(self, medium: np.ndarray, output: np.ndarray) -> dict[str, float]:
        """By the codec; sounds over the shorter one's length."""
        if self.modality == "audio":
            length = min(medium.shape[1], output.shape[1])
            medium, output = medium[:, :length], output[:, :length]
        return self.codec.quality(medium, output)


def reconstructs(codec: Any) -> bool:
    """Whether a codec promises the medium back, and not another one of the same content."""
    return bool(getattr(codec, "reconstructs", True))


def compare(codec: Any, modality: str, media: Iterable[np.ndarray], outputs: Sequence[np.ndarray]) -> list[Comparison]:
    """Compare the decodes of a codec with their media."""
    trips = RoundTrips(codec, modality)
    others = [*outputs[1:], *outputs[:1]] if len(outputs) > 1 else [None] * len(outputs)
    for medium, output, other in zip(media, outputs, others, strict=True):
        if reconstructs(codec):
            trips.look(medium, output)
        else:
            trips.add(medium, output, other)
    return trips.comparisons()


def _semantic(own: float, swapped: float, perfect: float) -> Comparison:
    """The share of the way from another item's decode to the medium itself that the decode goes."""
    if perfect - swapped < 1e-6:  # another item with the same content
        return Comparison(perfect - own, {}, (ANOTHER, CONSTANT))
    return Comparison(perfect - own, {ANOTHER: (own - swapped) / (perfect - swapped)})


def _as_output(medium: np.ndarray, output: np.ndarray) -> np.ndarray:
    """The medium in the form of a decode: a picture of the decode's size."""
    if medium.ndim != 3:
        return medium
    return np.clip(np.rint(resize(medium, output.shape[0])), 0, 255).astype(np.uint8)
