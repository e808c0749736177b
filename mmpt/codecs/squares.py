"""Pictures as the input and output of networks for squares: the middle square, resized, channels in -1..1."""

from __future__ import annotations

import numpy as np

from mmpt.codecs.image_quality import psnr, ssim


def square(picture: np.ndarray, side: int) -> np.ndarray:
    """uint8 [side, side, 3]: the middle square of a uint8 [H, W, 3], resized by Pillow's bicubic filter."""
    from PIL import Image

    height, width = picture.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    middle = np.ascontiguousarray(picture[top : top + edge, left : left + edge], np.uint8)
    return np.asarray(Image.fromarray(middle).resize((side, side), Image.Resampling.BICUBIC))


def to_channels(picture: np.ndarray, side: int) -> np.ndarray:
    """float32 [3, side, side] in -1..1 of a uint8 [H, W, 3]: its middle square."""
    return np.ascontiguousarray((square(picture, side).astype(np.float32) / 127.5 - 1).transpose(2, 0, 1))


def to_pixels(channels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of float [3, H, W] in -1..1; values outside are clipped."""
    return np.rint(np.clip(np.moveaxis(channels, 0, 2) * 127.5 + 127.5, 0, 255)).astype(np.uint8)


def square_quality(medium: np.ndarray, output: np.ndarray) -> dict[str, float]:
    """psnr (dB, at most 99) and ssim of uint8 [S, S, 3] `output` against the square of `medium` that it was made of."""
    seen = square(medium, output.shape[0])
    return {"psnr": psnr(seen, output), "ssim": ssim(seen, output)}
