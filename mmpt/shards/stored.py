"""From stored ids back to what a codec decodes: codes with their own scales, chunking and length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmpt.codecs.protocol import AudioCodes
from mmpt.tokens.space import TokenSpace


def stored_audio(space: TokenSpace, ids: np.ndarray, meta: Mapping[str, Any]) -> AudioCodes:
    """The codes of a stored sound.

    Args:
        ids: int [T * K], global, frame by frame.
        meta: a shard record, or ``meta`` of a golden record: scales, samples, codec_meta.

    Raises:
        UserError: an id outside its codebook.
    """
    return AudioCodes(
        codes=space.audio_from_global(ids),
        scales=meta["scales"],
        samples=int(meta["samples"] or 0),
        meta=meta["codec_meta"] or {},
    )


def stored_image(space: TokenSpace, ids: np.ndarray) -> np.ndarray:
    """int32 [tokens_per_image]: the codes of a stored picture. Raises UserError for an id outside IMAGE."""
    return space.image_from_global(ids)
