"""Codecs that cost nothing, for scale.py: no file is opened, and every record has the same ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmpt.bench.scale_rows import (
    CODEBOOK,
    CODEBOOKS,
    DIGEST,
    FRAMES,
    IMAGE_CODES,
    IMAGE_TOKENS,
    PICTURE_FIELDS,
    sound_fields,
)


class FreeSound:
    """What stages ask of an AudioCodec; its sounds are silent."""

    sample_rate, channels, n_codebooks, codebook_size = 16_000, 1, CODEBOOKS, CODEBOOK
    quality_metric, quality_floor = "si_sdr", 0.0

    def identity(self) -> str:
        return DIGEST + "1"

    def frames(self, samples: int) -> int:
        return FRAMES

    def decode(self, codes: Sequence[Any]) -> list[np.ndarray]:
        return [np.zeros((1, one.samples or self.sample_rate), np.float32) for one in codes]

    def quality(self, reference: Any, decoded: np.ndarray) -> dict[str, float]:
        return {}


class FreePicture:
    """What stages ask of an ImageCodec; its pictures are black."""

    codebook_size, tokens_per_image, proc_size, decode_size = IMAGE_CODES, IMAGE_TOKENS, 16, 16
    quality_metric, quality_floor = "psnr", 0.0

    def identity(self) -> str:
        return DIGEST + "2"

    def decode(self, codes: Sequence[Any], seeds: Sequence[int]) -> list[np.ndarray]:
        return [np.zeros((16, 16, 3), np.uint8) for _ in codes]

    def quality(self, reference: Any, decoded: np.ndarray) -> dict[str, float]:
        return {}


class FreeEncoder:
    """An Encoder (mmpt.shards.encode)."""

    def __init__(self, modality: str, space: Any):
        self.modality = modality
        self.codec: Any = FreeSound() if modality == "audio" else FreePicture()
        self.identity = self.codec.identity()
        self.cut = "nothing"
        self.starts = [one.start for one in space.segments(modality)]
        self.stream = space.stream
        self._ids = free_ids(modality, space)

    def load(self, record: dict[str, Any]) -> tuple[int, bool]:
        return (record.get("audio") or {"samples": 0})["samples"], False

    def size(self, record: dict[str, Any]) -> float:
        return float(self.load(record)[0])

    def loaded_bytes(self, record: dict[str, Any]) -> int:
        return 0  # nothing is decoded

    def encode(self, media: Sequence[tuple[int, bool]]) -> list[Any]:
        from mmpt.shards.encode import Encoded

        sound = self.modality == "audio"
        return [Encoded(self._ids, sound_fields(samples) if sound else PICTURE_FIELDS) for samples, _ in media]


def free_ids(modality: str, space: Any) -> np.ndarray:
    """int32: the ids of every record."""
    if modality == "image":
        return space.image_to_global(np.arange(IMAGE_TOKENS) * 7 % IMAGE_CODES)
    codes = np.arange(CODEBOOKS)[:, None] * FRAMES + np.arange(FRAMES)
    return space.audio_to_global(codes * 7 % CODEBOOK)
