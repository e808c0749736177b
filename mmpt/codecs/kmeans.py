"""K-means for the codebooks of the built-in codecs: float32, seeded, the same result for one thread count."""

import numpy as np

SEED_POINTS = 4096
"""Points that the seeding looks at; enough for 1,024 centres, and it costs centres x points."""
EPSILON = float(np.finfo(np.float32).eps)
BLOCK = 8192
"""Rows of a distance matrix held at once: 16 MiB for 512 centres."""


def nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return int64 [N]: the lowest index of the nearest of `centres` [K, D] for each of `points` [N, D].

    The result does not depend on threads, blocks or the BLAS library. A float32 product, whose rounding does depend on
    them, leaves the centres within its error bound of the best one; where those are several, float64 distances decide.
    """
    half = 0.5 * (centres**2).sum(axis=1)
    starts = range(0, len(points), BLOCK)
    blocks = [_nearest(points[i : i + BLOCK], centres, half) for i in starts]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.int64)


def _nearest(points: np.ndarray, centres: np.ndarray, half: np.ndarray) -> np.ndarray:
    """`nearest` of one block; `half` is half the squared length of each centre."""
    score = half - points @ centres.T
    best = score.argmin(axis=1)
    # |error| of a float32 sum of D products is at most D * eps * |x| |c| (Higham 2002, section 3.1); of the difference
    # of two scores twice that, and half of the longest centre's for each `half`.
    longest = np.sqrt(2 * half.max())
    bound = 2 * points.shape[1] * EPSILON * longest * (np.sqrt((points**2).sum(axis=1)) + longest)
    close = score <= (score.min(axis=1) + bound)[:, None]
    for row in np.flatnonzero(close.sum(axis=1) > 1):
        chosen = np.flatnonzero(close[row])
        distance = ((points[row].astype(np.float64) - centres[chosen]) ** 2).sum(axis=1)
        best[row] = chosen[int(distance.argmin())]
    return best


def kmeans(points: np.ndarray, k: int, *, seed: int, iterations: int = 12) -> np.ndarray:
    """Return `k` centres, float32 [k, D], of `points` [N, D]; N >= 1.

    Centres that lose all their points move to the points that are worst served. Fewer points than centres are
    no error: the remaining centres repeat the first one and are never the lowest index that is nearest.
    """
    points = np.ascontiguousarray(points, dtype=np.float32)
    if len(points) <= k:
        return np.concatenate([points, np.repeat(points[:1], k - len(points), axis=0)])
    rng = np.random.default_rng([seed, k, len(points)])
    centres = _spread(points, k, rng)
    for _ in range(iterations):
        owner = nearest(points, centres)
        count = np.bincount(owner, minlength=k)
        centres = _means(points, owner, count, centres)
        empty = np.flatnonzero(count == 0)
        if len(empty):
            error = ((points - centres[owner]) ** 2).sum(axis=1)
            centres[empty] = points[np.argsort(-error, kind="stable")[: len(empty)]]
    return centres


def _means(points: np.ndarray, owner: np.ndarray, count: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The mean of each centre's points; a centre without points stays where it is."""
    order = np.argsort(owner, kind="stable")
    used = np.flatnonzero(count)
    starts = (np.cumsum(count) - count)[used]
    means = centres.copy()
    means[used] = np.add.reduceat(points[order], starts, axis=0, dtype=np.float32) / count[used, None]
    return means


def _spread(points: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """K-means++: each next centre is drawn in proportion to the squared distance to the chosen ones."""
    sample = points[np.sort(rng.permutation(len(points))[: max(SEED_POINTS, 2 * k)])]
    chosen = [int(rng.integers(len(sample)))]
    norms = (sample**2).sum(axis=1)
    distance = np.full(len(sample), np.inf, dtype=np.float32)
    while len(chosen) < k:
        last = sample[chosen[-1]]
        distance = np.minimum(distance, np.maximum(0, norms - 2 * (sample @ last) + last @ last))
        total = np.cumsum(distance, dtype=np.float64)
        drawn = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
        chosen.append(min(drawn, len(sample) - 1))
    return sample[chosen].copy()
