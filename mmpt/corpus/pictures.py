"""Pictures of the generated corpus: one plain shape on a plain ground, and sentences that describe it."""

import numpy as np

PICTURE_SIZE = 48
"""Pixels of a side."""

PICTURE_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "triangle", "cross"),
    "colour": ("red", "green", "blue", "yellow"),
    "size": ("small", "large"),
    "place": ("left", "right", "top", "bottom", "middle"),
    "background": ("black", "white", "grey"),
}
RGB: dict[str, tuple[int, int, int]] = {
    "red": (215, 45, 45),
    "green": (45, 165, 70),
    "blue": (45, 85, 215),
    "yellow": (240, 205, 50),
    "black": (18, 18, 22),
    "white": (242, 242, 238),
    "grey": (128, 128, 130),
}
RADIUS = {"small": 7.0, "large": 11.5}
CENTRE = {"left": (12, 24), "right": (36, 24), "top": (24, 12), "bottom": (24, 36), "middle": (24, 24)}
"""Place -> (x, y) in pixels; all are multiples of 12, so that places share patches."""

CELL = 12
"""Pixels of a side of the cells that stars lie in the middle of: a patch of the smoke codec is a cell."""
STARS = (2, 3)
"""How many small squares lie on the ground at least and at most, in cells that the shape does not touch. No caption
mentions them.
"""
STAR_RADIUS = 2
STAR_CONTRAST = {"black": 70, "white": -70, "grey": 60}
"""Levels by which a star differs from its ground."""

SPECKS = 12
"""Pixels that are one step brighter: files differ even where stars and attributes agree, and no codec sees it."""

OVERSAMPLE = 4
"""Samples a pixel side, for smooth edges."""


def inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Say which points lie in the shape; `x`, `y` are distances from its centre in radii, y downwards."""
    if shape == "circle":
        return x**2 + y**2 <= 1
    if shape == "triangle":
        return (y <= 0.85) & (y >= -1 + 1.85 * abs(x))
    if shape == "cross":
        return (np.minimum(abs(x), abs(y)) <= 0.33) & (np.maximum(abs(x), abs(y)) <= 1)
    raise KeyError(shape)


def coverage(shape: str, centre: tuple[float, float], radius: float) -> np.ndarray:
    """Return float64 [48, 48]: the share of each pixel that the shape covers."""
    steps = (np.arange(PICTURE_SIZE * OVERSAMPLE) + 0.5) / OVERSAMPLE
    x = (steps - centre[0])[None, :] / radius
    y = (steps - centre[1])[:, None] / radius
    fine = inside(shape, x, y).astype(np.float64)
    return fine.reshape(PICTURE_SIZE, OVERSAMPLE, PICTURE_SIZE, OVERSAMPLE).mean(axis=(1, 3))


def draw_picture(attributes: dict[str, str], rng: np.random.Generator) -> np.ndarray:
    """Return uint8 [48, 48, 3]; `rng` scatters the stars and the specks."""
    front = np.array(RGB[attributes["colour"]], dtype=np.float64)
    back = np.array(RGB[attributes["background"]], dtype=np.float64)
    mask = coverage(attributes["shape"], CENTRE[attributes["place"]], RADIUS[attributes["size"]])[..., None]
    pixels = np.rint(back + mask * (front - back))
    for x, y in _stars(mask[..., 0], rng):
        square = np.s_[y - STAR_RADIUS : y + STAR_RADIUS, x - STAR_RADIUS : x + STAR_RADIUS]
        pixels[square] = back + STAR_CONTRAST[attributes["background"]]
    pixels = pixels.astype(np.uint8)
    rows, columns = rng.integers(PICTURE_SIZE, size=(2, SPECKS))
    pixels[rows, columns] += 1
    return pixels


def _stars(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return int [n, 2], n as STARS says: centres (x, y) of cells that are all ground in `mask` [48, 48]."""
    side = PICTURE_SIZE // CELL
    covered = mask.reshape(side, CELL, side, CELL).max(axis=(1, 3))
    rows, columns = np.nonzero(covered == 0)
    chosen = rng.permutation(len(rows))[: int(rng.integers(STARS[0], STARS[1] + 1))]
    return np.stack([columns[chosen], rows[chosen]], axis=1) * CELL + CELL // 2


def caption_picture(attributes: dict[str, str], mentioned: list[str], rng: np.random.Generator) -> str:
    """Describe the mentioned attributes in one of several wordings."""
    said = {name: attributes[name] for name in mentioned}
    words = (said.get("size"), said.get("colour"), said.get("shape", "shape"))
    thing = " ".join(word for word in words if word)
    place = said.get("place")
    where = "" if not place else f"in the {place}" if place == "middle" else f"at the {place}"
    ground = said.get("background")
    wording = int(rng.integers(4))
    if wording == 0:
        parts = ["a", thing, where, f"on a {ground} background" if ground else ""]
    elif wording == 1:
        parts = [f"on {ground} ground" if ground else "here", "is a", thing, where]
    elif wording == 2:
        parts = ["there is a", thing, where, f"and the background is {ground}" if ground else ""]
    else:
        parts = [f"a {ground} picture with a" if ground else "a picture with a", thing, where]
    return " ".join(part for part in parts if part) + "."
