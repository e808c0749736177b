"""The contract of a codec, built in or a plug-in: what `protocol.py` promises, tried on a few media.

`examine` tries every rule and records what broke; it judges nothing and stops at nothing. Stage `codecs` keeps its
result for gate S3; `python -m mmpt.codecs.check` prints it for the author of a plug-in.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.codecs import registry
from mmpt.codecs.protocol import AudioCodes, decoded_samples, encode_rate, frames_of, row_codebooks
from mmpt.codecs.round_trips import compare
from mmpt.codecs.sound_files import convert
from mmpt.codecs.trivial_decodes import Comparison, summarise
from mmpt.store.canonical import read_json, write_json
from mmpt.store.errors import UserError
from mmpt.store.stage import StageContext

CONTRACT = "contract.json"
"""Beside codec.json in a published codec's folder."""
ITEMS = 6
"""Media that a codec is examined on. Codecs that paint by diffusion take seconds for each decode."""
NEAR_TIES = 0.001
"""Share of codes that may differ on a GPU, where another batch size may decide a near tie otherwise: gate S3's bound
for encoding again. On the CPU none may."""
REFUSED = ("sizes", "identity", "codes", "decoded", "generated", "quality")
"""Rules without which no stage could use the codec: stage `codecs` refuses it. Gate S3 blocks on the others."""
SHOWN = 200  # characters of what a codec raised or returned

RULES = {
    "sizes": "name, sizes, quality_metric and quality_floor have the types of the protocol and fit into JSON",
    "identity": "identity() is a SHA-256 in hex, the same at every call",
    "codes": "encode gives one result per medium, in order, of the promised shape, inside the codebook; meta fits into "
    "JSON; frames() is the number of frames",
    "alone": "a medium's codes do not depend on the other media of the call or on earlier calls",
    "loaded": "the codec that is saved and loaded has the same identity and gives the same codes",
    "process": "another process that loads it gives the same codes",
    "decoded": "decode gives one result per item, of the promised shape and type, finite, and twice the same",
    "codebooks": "decode reads every codebook: with another item's codes of one codebook it gives something else",
    "generated": "codes that a model made (no length, no gains, no meta) decode, to samples() samples where the codec "
    "has it",
    "quality": "quality() gives finite numbers, quality_metric among them",
    "extremes": "silence, a single sample and a clip of full length encode and decode; for pictures a plain one, one "
    "pixel, and a very wide one",
}


@dataclass
class Examination:
    """What was found.

    Args:
        broken: rule -> what was found, for the rules of RULES that do not hold.
        tried: rules that could be tried; a rule that needs codes is not tried where encode fails.
        media: how many media it rests on.
        comparisons: each decode against trivial versions of itself.
        reconstructs: whether the codec promises its medium back; see `protocol.reconstructs`.
    """

    tried: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    media: int = 0
    comparisons: list[Comparison] = field(default_factory=list)
    reconstructs: bool = True

    def to_json(self) -> dict[str, Any]:
        """As schema codec_contract describes it."""
        return {
            "schema": "codec_contract/1",
            "media": self.media,
            "tried": list(self.tried),
            "broken": dict(self.broken),
            "reconstructs": self.reconstructs,
            "trivial": asdict(summarise(self.comparisons)),
        }


class Broken(Exception):
    """A rule does not hold; the text says what was found."""


def examine(
    codec: Any,
    modality: str,
    media: Sequence[np.ndarray],
    plugin: str,
    *,
    seconds: float = 1.0,
    device: str = "cpu",
) -> Examination:
    """Try every rule.

    Args:
        codec: on `device`.
        media: waves float32 [channels, T] as the codec encodes them, or pictures uint8 [H, W, 3]. Without any, only
            what needs no encoder is tried: an imported run brings no media.
        plugin: name in the registry, by which another instance is loaded.
        seconds: length of the longest clip that the run encodes.
    """
    found = Examination(media=len(media), reconstructs=getattr(codec, "reconstructs", True))
    trial = (_Sounds if modality == "audio" else _Pictures)(codec, list(media), plugin, seconds, device)
    _try(found, "sizes", trial.sizes)
    _try(found, "identity", trial.identity)
    codes = _try(found, "codes", trial.codes) if media else None
    if codes is None:
        _try(found, "generated", trial.generated)
    else:
        _try(found, "alone", lambda: trial.alone(codes))
        with tempfile.TemporaryDirectory() as folder:
            _try(found, "loaded", lambda: trial.loaded(codes, Path(folder) / modality))
            _try(found, "process", lambda: trial.in_another_process(codes, Path(folder)))
        outputs = _try(found, "decoded", lambda: trial.decoded(codes))
        if outputs is not None:
            _try(found, "codebooks", lambda: trial.codebooks(codes, outputs))
        _try(found, "generated", trial.generated)
        if outputs is not None:
            _try(found, "quality", lambda: trial.quality(outputs))
            found.comparisons = compare(codec, modality, trial.expected, outputs)
    if media:
        _try(found, "extremes", trial.extremes)
    return found


def _try(found: Examination, rule: str, trial: Callable[[], Any]) -> Any:
    """The trial's result, or None where the rule broke."""
    found.tried.append(rule)
    try:
        return trial()
    except Broken as broken:
        found.broken[rule] = str(broken)
    except MemoryError:
        raise
    except Exception as error:  # a plug-in may raise anything; it is recorded, and blocks
        found.broken[rule] = f"{type(error).__name__}: {error}"[:SHOWN]
    return None


class _Trials:
    """The rules that both modalities share. Each method raises Broken, or returns what later rules need."""

    modality = ""

    def __init__(self, codec: Any, media: list[np.ndarray], plugin: str, seconds: float, device: str):
        self.codec, self.media, self.plugin, self.seconds, self.device = codec, media, plugin, seconds, device

    @property
    def expected(self) -> list[np.ndarray]:
        """What each decode is compared with."""
        return self.media

    def check_codes(self, medium: np.ndarray, one: Any, where: str) -> None:
        raise NotImplementedError(self.modality)

    def sizes(self) -> None:
        about = registry.describe(self.codec, self.modality)
        for key, kind in registry.SIZES[self.modality].items():
            value = about[key]
            if not _plain(value, kind):
                raise Broken(f"{key} is {value!r} ({type(value).__name__}), expected {kind}")
        for key, kind in registry.ABOUT.items():
            if not _plain(about[key], kind):
                raise Broken(f"{key} is {about[key]!r} ({type(about[key]).__name__}), expected {kind}")

    def identity(self) -> None:
        first, second = self.codec.identity(), self.codec.identity()
        if not isinstance(first, str) or len(first) != 64 or set(first) - set("0123456789abcdef"):
            raise Broken(f"{first!r}, expected 64 hexadecimal digits")
        if first != second:
            raise Broken(f"{first[:12]}.. at the first call, {second[:12]}.. at the second")

    def codes(self) -> list[Any]:
        found = self.codec.encode(self.media)
        if not isinstance(found, Sequence) or len(found) != len(self.media):
            n = len(found) if isinstance(found, Sequence) else type(found).__name__
            raise Broken(f"encode gave {n} results for {len(self.media)} media")
        for place, (medium, one) in enumerate(zip(self.media, found, strict=True)):
            self.check_codes(medium, one, f"medium {place}")
        return list(found)

    def alone(self, codes: Sequence[Any]) -> None:
        backwards = list(self.codec.encode(self.media[::-1]))[::-1]
        self.same(codes, backwards, "in reversed order")
        self.same(codes, [self.codec.encode([one])[0] for one in self.media], "each alone")
        self.same(codes, self.codec.encode(self.media), "encoded again")

    def loaded(self, codes: Sequence[Any], folder: Path) -> None:
        registry.save(self.codec, folder, self.plugin, self.modality)
        load = registry.load_audio if self.modality == "audio" else registry.load_image
        other = load(folder, self.device)
        self.same(codes, other.encode(self.media), "by the codec that was saved and loaded")

    def in_another_process(self, codes: Sequence[Any], folder: Path) -> None:
        np.savez(folder / "media.npz", *self.media)
        command = [sys.executable, "-m", "mmpt.codecs.contract", str(folder), self.modality, self.device]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(one for one in sys.path if one)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise Broken(f"it ended with code {done.returncode}: {lines[-1][:SHOWN]}")
        with np.load(folder / "codes.npz") as file:
            others = [file[name] for name in sorted(file.files, key=lambda name: int(name[4:]))]
        self.same(codes, others, "by another process")

    def same(self, codes: Sequence[Any], others: Sequence[Any], how: str) -> None:
        pairs = [(_array(one), _array(other)) for one, other in zip(codes, others, strict=True)]
        wrong = [place for place, (one, other) in enumerate(pairs) if not np.array_equal(one, other)]
        total = sum(one.size for one, _ in pairs)
        ties = sum(int((one != other).sum()) if one.shape == other.shape else total for one, other in pairs)
        if wrong and (self.device == "cpu" or ties > NEAR_TIES * total):
            one, other = pairs[wrong[0]]
            n = int((one != other).sum()) if one.shape == other.shape else "all"
            raise Broken(
                f"{len(wrong)} of {len(codes)} media have other codes {how}, the first: medium {wrong[0]}, {n} of "
                f"{one.size}; a likely cause is state that a call leaves behind, or a batch that is padded"
            )

    def quality(self, outputs: Sequence[np.ndarray]) -> None:
        for medium, output in zip(self.expected, outputs, strict=True):
            found = self.codec.quality(medium, output)
            if self.codec.quality_metric not in found:
                raise Broken(f"no {self.codec.quality_metric!r} (quality_metric) among {sorted(found)}")
            bad = {key: value for key, value in found.items() if not math.isfinite(value)}
            if bad:
                raise Broken(f"{bad} is not finite")


class _Sounds(_Trials):
    modality = "audio"

    @property
    def rows(self) -> int:
        """Rows of codes."""
        return len(row_codebooks(self.codec))

    def sizes(self) -> None:
        super().sizes()
        found, n = row_codebooks(self.codec), self.codec.n_codebooks
        if sorted(set(found)) != list(range(n)) or not all(isinstance(one, int) for one in found):
            raise Broken(f"row_codebooks is {found!r}, expected each of 0..{n - 1} at least once")

    @property
    def expected(self) -> list[np.ndarray]:
        """The media at the rate of decodes."""
        rates = encode_rate(self.codec), self.codec.sample_rate
        return [convert(wave, *rates, self.codec.channels) for wave in self.media]

    def check_codes(self, wave: np.ndarray, one: Any, where: str) -> None:
        codes = np.asarray(one.codes)
        frames = self.codec.frames(wave.shape[1])
        if codes.shape != (self.rows, frames):
            raise Broken(
                f"{where} of {wave.shape[1]} samples: codes of shape {list(codes.shape)}, expected rows x "
                f"frames({wave.shape[1]}) = [{self.rows}, {frames}]"
            )
        _inside(codes, self.codec.codebook_size, where)
        if int(one.samples) not in (0, expected := decoded_samples(self.codec, wave.shape[1])):
            raise Broken(f"{where}: samples is {one.samples}, expected {expected}")
        _json(dict(one.meta), f"{where}: meta")
        _json(None if one.scales is None else [float(scale) for scale in one.scales], f"{where}: scales")

    def decoded(self, codes: Sequence[Any]) -> list[np.ndarray]:
        lengths = [decoded_samples(self.codec, wave.shape[1]) for wave in self.media]
        items = [AudioCodes(_array(one), one.scales, n, one.meta) for one, n in zip(codes, lengths, strict=True)]
        first, second = self.codec.decode(items), self.codec.decode(items[::-1])[::-1]
        _one_each(first, items)
        for place, (wave, n) in enumerate(zip(first, lengths, strict=True)):
            self.check_wave(wave, n, f"item {place} with samples {n}")
            if not np.array_equal(wave, second[place]):
                raise Broken(f"item {place} decodes otherwise when the items are given in reversed order")
        endless = [replace(one, samples=0) for one in items]
        again = self.codec.decode(endless)
        for place, (wave, other) in enumerate(zip(again, self.codec.decode(endless), strict=True)):
            self.check_wave(wave, None, f"item {place} without samples")
            if not np.array_equal(wave, other):
                raise Broken(f"item {place} decodes otherwise the second time")
            if wave.shape[1] < lengths[place]:
                raise Broken(
                    f"item {place} without samples decodes to {wave.shape[1]} samples, fewer than its {lengths[place]}"
                )
        return first

    def codebooks(self, codes: Sequence[Any], outputs: Sequence[np.ndarray]) -> None:
        arrays = [_array(one) for one in codes]
        for row, book in enumerate(row_codebooks(self.codec)):
            tried = 0
            for place, (one, own) in enumerate(zip(codes, arrays, strict=True)):
                swapped = _with_row(own, arrays[place - 1], row)
                if np.array_equal(swapped, own):
                    continue
                tried += 1
                item = AudioCodes(swapped, one.scales, outputs[place].shape[1], one.meta)
                if not np.array_equal(self.codec.decode([item])[0], outputs[place]):
                    break
            else:
                if tried:
                    what = f"codebook {book}" if self.rows == self.codec.n_codebooks else f"row {row} (codebook {book})"
                    raise Broken(f"{what}: {tried} items decode alike with another item's codes in its place")

    def generated(self) -> None:
        rng = np.random.default_rng(0)
        for frames in sorted({1, 2, frames_of(self.codec, self.seconds)}):
            codes = rng.integers(0, self.codec.codebook_size, (self.rows, frames)).astype(np.int32)
            (wave,) = self.codec.decode([AudioCodes(codes)])
            expected = self.codec.samples(frames) if hasattr(self.codec, "samples") else None
            self.check_wave(wave, expected, f"{frames} generated frames")

    def check_wave(self, wave: Any, samples: int | None, where: str) -> None:
        shape = getattr(wave, "shape", None)
        if shape is None or len(shape) != 2 or shape[0] != self.codec.channels or shape[1] < 1:
            raise Broken(f"{where}: shape {shape}, expected [{self.codec.channels}, samples]")
        if wave.dtype != np.float32:
            raise Broken(f"{where}: {wave.dtype}, expected float32")
        if samples is not None and shape[1] != samples:
            raise Broken(f"{where}: {shape[1]} samples, expected {samples}")
        if not np.isfinite(wave).all():
            raise Broken(f"{where}: samples that are not finite")

    def extremes(self) -> None:
        longest = max(1, round(self.seconds * encode_rate(self.codec)))
        noise = np.random.default_rng(0).normal(0, 0.1, (self.codec.channels, longest)).astype(np.float32)
        for what, wave in (
            ("silence", np.zeros((self.codec.channels, max(1, longest // 2)), np.float32)),
            ("a single sample", np.full((self.codec.channels, 1), 0.1, np.float32)),
            ("the longest clip", noise),
        ):
            with _at(what):
                (one,) = self.codec.encode([wave])
                self.check_codes(wave, one, what)
                length = decoded_samples(self.codec, wave.shape[1])
                (output,) = self.codec.decode([AudioCodes(_array(one), one.scales, length, one.meta)])
                self.check_wave(output, length, what)


class _Pictures(_Trials):
    modality = "image"

    def check_codes(self, picture: np.ndarray, one: Any, where: str) -> None:
        codes = np.asarray(one)
        if codes.shape != (self.codec.tokens_per_image,):
            raise Broken(f"{where}: codes of shape {list(codes.shape)}, expected [{self.codec.tokens_per_image}]")
        _inside(codes, self.codec.codebook_size, where)

    def decoded(self, codes: Sequence[Any]) -> list[np.ndarray]:
        seeds = list(range(len(codes)))
        first = self.codec.decode(codes, seeds)
        _one_each(first, codes)
        second = self.codec.decode(codes[::-1], seeds[::-1])[::-1]
        for place, picture in enumerate(first):
            self.check_picture(picture, f"item {place}")
            if not np.array_equal(picture, second[place]):
                raise Broken(f"item {place} with seed {place} decodes otherwise when the items are given in reverse")
        for place, picture in enumerate(self.codec.decode(codes[:1])):
            self.check_picture(picture, f"item {place} without a seed")
        return list(first)

    def codebooks(self, codes: Sequence[Any], outputs: Sequence[np.ndarray]) -> None:
        tried = 0
        for place, own in enumerate(codes):
            if np.array_equal(codes[place - 1], own):
                continue
            tried += 1
            if not np.array_equal(self.codec.decode([codes[place - 1]], [place])[0], outputs[place]):
                return
        if tried:
            raise Broken(f"{tried} items decode alike with another item's codes")

    def generated(self) -> None:
        codes = np.random.default_rng(0).integers(0, self.codec.codebook_size, self.codec.tokens_per_image)
        (picture,) = self.codec.decode([codes.astype(np.int32)], [0])
        self.check_picture(picture, "generated codes")

    def check_picture(self, picture: Any, where: str) -> None:
        side = self.codec.decode_size
        if getattr(picture, "shape", None) != (side, side, 3) or picture.dtype != np.uint8:
            about = (getattr(picture, "dtype", type(picture).__name__), getattr(picture, "shape", ""))
            raise Broken(f"{where}: {about[0]} {about[1]}, expected uint8 ({side}, {side}, 3)")

    def extremes(self) -> None:
        wide = np.random.default_rng(0).integers(0, 256, (7, 301, 3)).astype(np.uint8)
        for what, picture in (
            ("a plain picture", np.full((64, 64, 3), 128, np.uint8)),
            ("a picture of one pixel", np.full((1, 1, 3), 200, np.uint8)),
            ("a picture of 301 x 7 pixels", wide),
        ):
            with _at(what):
                (one,) = self.codec.encode([picture])
                self.check_codes(picture, one, what)


class _at:
    """Says of which extreme medium an error tells."""

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, Broken):
            raise Broken(f"{self.what}: {kind.__name__ if kind else ''}: {error}"[:SHOWN]) from error


def encode_saved(folder: Path, modality: str, device: str) -> None:
    """What the other process does: codes.npz of media.npz, by the codec saved in folder/modality."""
    load = registry.load_audio if modality == "audio" else registry.load_image
    codec = load(folder / modality, device)
    with np.load(folder / "media.npz") as file:
        media = [file[name] for name in sorted(file.files, key=lambda name: int(name[4:]))]
    np.savez(folder / "codes.npz", *(_array(one) for one in codec.encode(media)))


def read_contract(folder: Path) -> Mapping[str, Any]:
    """contract.json of a codec's published folder, as schema codec_contract describes it."""
    return read_json(Path(folder) / CONTRACT)


def _array(one: Any) -> np.ndarray:
    return np.asarray(getattr(one, "codes", one))


def _with_row(own: np.ndarray, other: np.ndarray, book: int) -> np.ndarray:
    """`own` [K, T] with row `book` of `other`, which is repeated or cut to T."""
    swapped = own.copy()
    swapped[book] = np.resize(other[book], own.shape[1])
    return swapped


def _one_each(outputs: Any, items: Sequence[Any]) -> None:
    if len(outputs) != len(items):
        raise Broken(f"decode gave {len(outputs)} results for {len(items)} items")


def _inside(codes: np.ndarray, size: int, where: str) -> None:
    if not np.issubdtype(codes.dtype, np.integer):
        raise Broken(f"{where}: codes of type {codes.dtype}, expected whole numbers")
    outside = codes[(codes < 0) | (codes >= size)]
    if len(outside):
        raise Broken(f"{where}: code {int(outside[0])}, expected 0..{size - 1}")


def _json(value: Any, where: str) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Broken(f"{where}: {error}") from error


def _plain(value: Any, kind: str) -> bool:
    """Whether a value is what JSON can hold, of the named kind; a bool is no number here."""
    kinds: dict[str, Callable[[Any], bool]] = {
        "text": lambda one: isinstance(one, str) and bool(one),
        "a whole number from 1 up": lambda one: type(one) is int and one >= 1,
        "a number above 0": lambda one: type(one) in (int, float) and math.isfinite(one) and one > 0,
        "a number": lambda one: type(one) in (int, float) and math.isfinite(one),
        "two whole numbers": lambda one: len(one) == 2 and all(type(each) is int for each in one),
    }
    return kinds[kind](value)


if __name__ == "__main__":
    encode_saved(Path(sys.argv[1]), sys.argv[2], sys.argv[3])


def keep_contract(ctx: StageContext, found: Examination, modality: str, name: str) -> None:
    """Writes contract.json for gate S3.

    Raises:
        UserError: a rule is broken without which no stage could use the codec.
    """
    for rule, what in found.broken.items():
        ctx.log(f"{modality}: {name} breaks its contract, rule {rule}: {what}")
    if refused := [rule for rule in REFUSED if rule in found.broken]:
        raise UserError(
            f"codec {name} breaks its contract, rule {refused[0]}",
            where=f"codecs.{modality}.name",
            found=found.broken[refused[0]],
            expected=RULES[refused[0]],
            fix=f"mend the codec; `python -m mmpt.codecs.check {name}` tries all rules",
        )
    (ctx.out / modality).mkdir(parents=True, exist_ok=True)
    write_json(ctx.out / modality / CONTRACT, found.to_json())
