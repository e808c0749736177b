"""Validation of a codec's options and codes, and batches of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmpt.store.errors import UserError
from mmpt.store.schema import nearest


def check_options(options: Iterable[str], known: Sequence[str], where: str) -> None:
    """Raises UserError for an option of profile section `where` that the codec does not have."""
    for key in options:
        if key not in known:
            raise UserError(
                "unknown codec option",
                where=f"{where}.{key}",
                found=key,
                expected=", ".join(known),
                fix=nearest(key, known),
            )


def check_codebook_size(options: Mapping[str, Any], size: int, where: str, whose: str = "the codec's") -> None:
    """Raises UserError where option `codebook_size` of profile section `where` is another than the weights' `size`."""
    if (asked := options.get("codebook_size", size)) != size:
        raise UserError(
            f"{whose} codebook size is fixed by its weights", where=f"{where}.codebook_size", found=asked, expected=size
        )


def picture_codes(codes: np.ndarray, tokens: int, codebook_size: int) -> np.ndarray:
    """int64 [tokens] of a picture's codes. Raises UserError for another number of them, or one outside the codebook."""
    codes = np.asarray(codes)
    if codes.shape != (tokens,):
        raise UserError("wrong number of image codes", found=codes.shape, expected=(tokens,))
    outside = np.flatnonzero((codes < 0) | (codes >= codebook_size))
    if len(outside):
        raise UserError(
            f"image code outside its codebook at position {outside[0]}",
            found=int(codes[outside[0]]),
            expected=f"0..{codebook_size - 1}",
        )
    return codes.astype(np.int64)


def together(pictures: Sequence[np.ndarray], device: str) -> Iterator[Sequence[np.ndarray]]:
    """The pictures that a network encodes at once: on the CPU one, whose codes are then its own; on CUDA all, where a
    near tie may be decided otherwise than alone.
    """
    size = max(1, len(pictures)) if device.startswith("cuda") else 1
    return (pictures[at : at + size] for at in range(0, len(pictures), size))
