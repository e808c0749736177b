"""Kernel Audio Distance between two sets of embeddings (Chung et al. 2025, arXiv 2502.15602): unbiased, so that it may
be read at 64 items, where a Frechet distance cannot.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist, pdist

SCALE = 100.0  # the paper's toolkit gives distances times this


def kad(outputs: np.ndarray, references: np.ndarray) -> float:
    """SCALE times the squared maximum mean discrepancy of [n, D] from [m, D], n and m at least 2.

    Gaussian kernel, as wide as the median distance between references. Around 0, and as likely below it, for two sets
    of one distribution. Raises ValueError for fewer items.
    """
    if min(len(outputs), len(references)) < 2:
        raise ValueError("a distance between sets needs two items of each")
    width = float(np.median(pdist(references)))
    scale = 1.0 / (2 * max(width, 1e-8) ** 2)

    def within(rows: np.ndarray) -> float:
        return float(np.exp(-scale * pdist(rows, "sqeuclidean")).mean())

    between = float(np.exp(-scale * cdist(outputs, references, "sqeuclidean")).mean())
    return SCALE * (within(outputs) + within(references) - 2 * between)
