"""How alike two pictures are, PSNR and SSIM, for any codec's round trip; and the resizing that they rest on."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

GREY = np.array([0.299, 0.587, 0.114])
_SIGMA, _K1, _K2 = 1.5, 0.01, 0.03


def psnr(reference: np.ndarray, output: np.ndarray) -> float:
    """dB, at most 99, of uint8 [S, S, 3] `output` against `reference` [H, W, 3] resized to S."""
    difference = resize(reference, output.shape[0]).astype(np.float64) - output
    error = max(float(np.mean(difference**2)), 255**2 * 10**-9.9)
    return float(10 * np.log10(255**2 / error))


def ssim(reference: np.ndarray, output: np.ndarray) -> float:
    """Structural similarity, -1..1, of the grey values of `output` and of `reference` resized to it.

    Wang, Bovik, Sheikh, Simoncelli 2004, with their Gaussian window (sigma 1.5, 11 x 11), K1 0.01, K2 0.03; its mean is
    over all places, mirrored at the edge, so that pictures smaller than the window have a value too.
    """
    first = resize(reference, output.shape[0]).astype(np.float64) @ GREY
    second = output.astype(np.float64) @ GREY
    c1, c2 = (_K1 * 255) ** 2, (_K2 * 255) ** 2

    def mean(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, _SIGMA, radius=5, mode="reflect")

    a, b = mean(first), mean(second)
    var_a, var_b = mean(first**2) - a * a, mean(second**2) - b * b
    shared = mean(first * second) - a * b
    return float(np.mean((2 * a * b + c1) * (2 * shared + c2) / ((a * a + b * b + c1) * (var_a + var_b + c2))))


def resize(picture: np.ndarray, size: int) -> np.ndarray:
    """Return float32 [size, size, 3] of a uint8 [H, W, 3] picture: a triangle filter as wide as the step."""
    pixels = picture.astype(np.float32)
    if picture.shape[0] != size:
        pixels = np.einsum("ij,jkc->ikc", _filter(picture.shape[0], size), pixels, optimize=True)
    if picture.shape[1] != size:
        pixels = np.einsum("ij,kjc->kic", _filter(picture.shape[1], size), pixels, optimize=True)
    return pixels


def _filter(old: int, new: int) -> np.ndarray:
    """Rows of weights, float32 [new, old], each of sum 1."""
    step = old / new
    apart = abs((np.arange(new)[:, None] + 0.5) * step - (np.arange(old)[None, :] + 0.5)) / max(step, 1.0)
    weights = np.maximum(0, 1 - apart)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
