"""`python -m mmpt.codecs.check NAME`: tries a codec's contract, for the author of a plug-in.

    python -m mmpt.codecs.check mycodec --path weights/ --option n_codebooks=4 --media some/recordings

The codec is made as a profile's section `codecs.audio` or `codecs.image` would make it. Without `--media` it is tried
on sounds or pictures that are made here. Exit codes: 0 all rules hold, 10 one does not, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmpt.codecs import registry
from mmpt.codecs.contract import ITEMS, RULES, Examination, examine
from mmpt.codecs.media import MediaError, clip, load_audio, load_image
from mmpt.codecs.names import BUILT_IN, entry_point
from mmpt.codecs.protocol import encode_rate
from mmpt.codecs.trivial_decodes import Summary, summarise
from mmpt.store.errors import EXIT_GO, EXIT_NO_GO, EXIT_USAGE, UserError

FIT_MEDIA = 48
"""Media that a codec which is fitted is fitted on; the next ITEMS are those that it is tried on."""
ITEMS_BETTER, MEAN, GAIN = 0.05, 0.05, 0.2
"""Bounds of gate S3 (trivial_items, trivial_mean, gain), to show here what it would say; a test holds them together."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        options = _parser().parse_args(words)
        found = check(options.name, _section(options), options.media, options.seconds, options.modality)
    except UserError as error:
        print(f"check: {error}", file=sys.stderr)
        return EXIT_USAGE
    lines, good = report(found)
    print("\n".join(lines))
    return EXIT_GO if good else EXIT_NO_GO


def check(
    name: str, section: Mapping[str, Any], folder: Path | None = None, seconds: float = 2.0, modality: str = ""
) -> Examination:
    """Make the codec of a profile's section and try its contract.

    Args:
        section: `name`, and the keys of a profile's codec section.
        folder: of sounds or pictures; None: media made here.
        seconds: the longest clip.
        modality: audio or image; empty: the codec's, which has one alone.

    Raises:
        UserError: an unknown codec, options that it refuses, a folder without media that can be read.
    """
    modality = modality or _modality(name)
    form = registry.fit_format(modality, section)
    made: Any = {"audio": registry.create_audio, "image": registry.create_image}[modality]
    if modality == "image":
        media = _pictures(folder)
        codec = made(section, media[ITEMS:] if form else None)
    else:
        fitted = None if form is None else _sounds(folder, form[0], form[1], seconds)
        codec = made(section, fitted and fitted[ITEMS:])
        media = _sounds(folder, encode_rate(codec), codec.channels, seconds)
    return examine(codec, modality, media[:ITEMS], name, seconds=seconds)


def report(found: Examination) -> tuple[list[str], bool]:
    """(lines for a terminal, whether gate S3 would let the codec pass)."""
    lines = []
    for rule, promise in RULES.items():
        state = "BROKEN" if rule in found.broken else "ok" if rule in found.tried else "not tried"
        lines.append(f"{rule:<10} {state:<10} {found.broken.get(rule, promise)}")
    one = summarise(found.comparisons)
    good = not found.broken and len(found.tried) == len(RULES)
    for state, what, n in compared(one):
        good = good and state == "ok"
        lines.append(f"{'trivial':<10} {state:<10} {what}, n {n}")
    return [*lines, "the contract holds" if good else "the contract does not hold"], good


def compared(one: Summary) -> list[tuple[str, str, int]]:
    """(ok or BROKEN, what, items) of each thing that gate S3 asks of the decodes."""
    found = [
        (
            one.better,
            one.better is not None and one.better <= ITEMS_BETTER,
            one.items,
            f"share of decodes that a change makes better (worst: {one.worst_change}): {{}}, at most {ITEMS_BETTER:g}",
        ),
        (
            one.mean,
            one.mean is not None and one.mean >= MEAN,
            one.items,
            f"mean margin over the change {one.mean_change}: {{}}, at least {MEAN:g}",
        ),
        (
            one.gain,
            one.gain is not None and one.gain >= GAIN,
            one.varied,
            f"gain over a constant version: {{}}, at least {GAIN:g}",
        ),
    ]
    return [
        ("ok" if good else "BROKEN", what.format("not measured" if value is None else f"{value:.2f}"), n)
        for value, good, n, what in found
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m mmpt.codecs.check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", help="as in codecs.audio.name or codecs.image.name")
    parser.add_argument("--modality", choices=("audio", "image"), default="", help="of a codec that has both")
    parser.add_argument("--path", help="weights: a file, a folder or a hub id")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="another key of the section; repeatable"
    )
    parser.add_argument("--media", type=Path, metavar="FOLDER", help="sounds or pictures to try it on")
    parser.add_argument("--seconds", type=float, default=2.0, help="the longest clip (default: 2)")
    return parser


def _modality(name: str) -> str:
    kinds = BUILT_IN.get(name) or (registry.modality_of(name, entry_point(name, "audio or image")),)
    if len(kinds) > 1:
        raise UserError(
            f"codec {name} is one of each modality", where="--modality", found="none", expected=" or ".join(kinds)
        )
    return kinds[0]


def _section(options: argparse.Namespace) -> dict[str, Any]:
    section: dict[str, Any] = {"name": options.name, **({"path": options.path} if options.path else {})}
    for one in options.option:
        key, equals, value = one.partition("=")
        if not equals:
            raise UserError("an option without a value", where="--option", found=one, expected="KEY=VALUE")
        section[key] = yaml.safe_load(value)
    return section


def _files(folder: Path, load: Any) -> list[np.ndarray]:
    if not folder.is_dir():
        raise UserError("no such folder", where="--media", found=folder)
    media = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            media.append(load(path))
        except MediaError:
            continue  # captions and licences lie beside the media
        if len(media) == FIT_MEDIA + ITEMS:
            break
    if not media:
        raise UserError("no medium that can be read", where="--media", found=folder)
    return media


def _sounds(folder: Path | None, rate: int, channels: int, seconds: float) -> list[np.ndarray]:
    if folder is not None:
        return _files(folder, lambda path: clip(load_audio(path, rate, channels), rate, seconds)[0])
    return [_sound(seed, rate, channels, seconds) for seed in range(FIT_MEDIA + ITEMS)]


def _sound(seed: int, rate: int, channels: int, seconds: float) -> np.ndarray:
    """float32 [channels, T]: a few tones and bursts of noise at random times, of random length up to `seconds`."""
    rng = np.random.default_rng(seed)
    n = max(1, round(rate * seconds * rng.uniform(0.4, 1.0)))
    time = np.arange(n) / rate
    wave = rng.normal(0, 1e-3, (channels, n))
    for _ in range(6):
        start, length = rng.uniform(0, 0.8) * n / rate, rng.uniform(0.1, 0.4)
        pitch = rng.uniform(100, min(4000, rate / 4)) * (1 + rng.uniform(-0.5, 0.5) * time)
        voice = np.sin(2 * np.pi * np.cumsum(pitch) / rate) if rng.random() < 0.7 else rng.normal(0, 0.3, n)
        inside = np.clip(np.minimum(time - start, start + length - time) * 50, 0, 1)
        wave += rng.uniform(0.05, 0.2) * rng.uniform(0.2, 1.0, (channels, 1)) * inside * voice
    return np.clip(wave, -1, 1).astype(np.float32)


def _pictures(folder: Path | None) -> list[np.ndarray]:
    if folder is not None:
        return _files(folder, load_image)
    return [_picture(seed) for seed in range(FIT_MEDIA + ITEMS)]


def _picture(seed: int) -> np.ndarray:
    """uint8 [H, W, 3]: a colour gradient with a few discs, of random size."""
    rng = np.random.default_rng(seed)
    height, width = (int(one) for one in rng.integers(96, 200, 2))
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    corners = rng.uniform(0, 255, (3, 3))
    pixels = corners[0] + x[..., None] * (corners[1] - corners[0]) + y[..., None] * (corners[2] - corners[0])
    for _ in range(5):
        centre, radius = rng.uniform(0, 1, 2), rng.uniform(0.05, 0.25)
        inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
        pixels[inside] = rng.uniform(0, 255, 3)
    return np.clip(pixels, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    raise SystemExit(main())
