"""Writes what tests/pipeline/smollm2.yaml reads, below the folder it is given.

discs/        300 pictures of discs and 300 tones with their captions, for reader `captions`
replay.txt, heldout.txt   English text that every Python brings: every second topic of its language reference
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import soundfile
from PIL import Image, ImageDraw

COLOURS = {"red": (210, 40, 40), "green": (40, 170, 60), "blue": (50, 70, 210), "yellow": (230, 210, 50)}
PITCHES = {"low": 200, "middle": 500, "high": 1200, "shrill": 3000}  # Hz
RADII = {"small": 8, "large": 18}  # of 48 pixels
LOUDNESS = {"quiet": 0.1, "loud": 0.5}
RATE = 16_000


def disc(path: Path, colour: str, size: str, rng: np.random.Generator) -> None:
    x, y = 24 + rng.uniform(-2, 2, 2)
    r = RADII[size] + rng.uniform(-1, 1)
    fill = tuple(int(channel + rng.integers(-9, 10)) for channel in COLOURS[colour])
    picture = Image.new("RGB", (48, 48), (128, 128, 128))
    ImageDraw.Draw(picture).ellipse((x - r, y - r, x + r, y + r), fill)
    picture.save(path)


def tone(path: Path, pitch: str, loud: str, rng: np.random.Generator) -> None:
    seconds = np.arange(RATE) / RATE
    angle = 2 * np.pi * PITCHES[pitch] * rng.uniform(0.97, 1.03) * seconds + rng.uniform(0, 6)
    soundfile.write(path, LOUDNESS[loud] * np.sin(angle), RATE)


def records(folder: Path, count: int) -> Iterator[dict[str, Any]]:
    """Lines of captions.jsonl; draws their media."""
    rng = np.random.default_rng(1)
    for i in range(count):
        four, two = i % 4, i // 4 % 2
        colour, size = list(COLOURS)[four], list(RADII)[two]
        disc(folder / f"{i}.png", colour, size, rng)
        yield {"id": f"disc-{i}", "image": f"{i}.png", "caption": f"a {size} {colour} disc on grey"}
        pitch, loud = list(PITCHES)[four], list(LOUDNESS)[two]
        tone(folder / f"{i}.wav", pitch, loud, rng)
        yield {"id": f"tone-{i}", "audio": f"{i}.wav", "caption": f"a {loud} {pitch} tone"}


def main(root: Path) -> None:
    folder = root / "discs"
    folder.mkdir(parents=True)
    lines = [json.dumps(record) + "\n" for record in records(folder, 300)]
    (folder / "captions.jsonl").write_text("".join(lines))
    pages = [text for _, text in sorted(topics.items())]
    (root / "replay.txt").write_text("\n".join(pages[::2]), encoding="utf-8")
    (root / "heldout.txt").write_text("\n".join(pages[1::2]), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
