"""Random numbers that are a function of (key, counter): no state, so they can be asked for in any order.

A key is the SHA-256 of what the numbers are for; counters go through splitmix64's finaliser (Steele, Lea,
Flood 2014) twice. Shuffles and dropout decisions therefore survive a resume, another worker count and a numpy
upgrade unchanged.
"""

from __future__ import annotations

import numpy as np

from mmpt.store.canonical import digest_json

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def stream(seed: int, *purpose: str | int) -> np.uint64:
    """The key of a stream: equal arguments give equal numbers, any other argument an unrelated stream."""
    return np.uint64(int(digest_json([seed, *purpose])[:16], 16))


def bits(key: np.uint64 | np.ndarray, counters: np.ndarray | int) -> np.ndarray:
    """uint64 random bits, one for each counter (any shape)."""
    with np.errstate(over="ignore"):
        value = _mix(np.asarray(counters, dtype=np.uint64) * _GOLDEN + key)
        return _mix(value ^ (key * _GOLDEN))


def uniform(key: np.uint64, counters: np.ndarray | int) -> np.ndarray:
    """float64 in [0, 1) with 53 random bits, one for each counter."""
    return (bits(key, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(key: np.uint64, size: int) -> np.ndarray:
    """int64 [size]: 0..size-1 in random order."""
    return np.argsort(bits(key, np.arange(size, dtype=np.uint64)), kind="stable")


def _mix(value: np.ndarray) -> np.ndarray:
    value = value + _GOLDEN
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
