"""Lengths of a corpus's records in tokens, computed before anything is tokenised.

Sounds: the manifest's durations, cut to the clip length, through the codec's own frame count. Pictures: the
codec's tokens. Captions: counted with the base's tokenizer. What is not there yet is assumed, and said to be.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.codecs import registry
from mmpt.codecs.protocol import encode_rate, row_codebooks
from mmpt.shards.source_lengths import SourceRecords, look
from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError
from mmpt.store.jsonl import iter_jsonl
from mmpt.store.numbers import Labels

# Caption tokens of the upstream corpora (Clotho, AudioCaps, WavCaps, LLaVA-Pretrain): 50, 90 and 99 %
# quantiles of 11..14, 18..20 and 24..26. Assumed records follow them.
ASSUMED_CAPTION = ((0.0, 6), (0.5, 13), (0.9, 20), (0.99, 26), (1.0, 40))
ASSUMED_RECORDS = 4000
_COUNTED = 1024  # captions tokenised at once


@dataclass(frozen=True)
class AudioShape:
    """What decides how many tokens each sound becomes.

    frames(samples at `rate`) -> frames. rows: codebook of each row of codes; empty: a row for each codebook.
    """

    name: str
    rate: int
    n_codebooks: int
    codebook_size: int
    frames: Callable[[int], int]
    rows: tuple[int, ...] = ()

    @property
    def kept_rows(self) -> tuple[int, ...]:
        """Codebook of each row of codes, of the first `n_codebooks` codebooks."""
        return tuple(book for book in self.rows or range(self.n_codebooks) if book < self.n_codebooks)

    @property
    def width(self) -> int:
        """Ids per frame."""
        return len(self.kept_rows)


@dataclass(frozen=True)
class ImageShape:
    """What decides how many tokens each picture becomes."""

    name: str
    tokens: int
    codebook_size: int


@dataclass(frozen=True)
class Corpus:
    """Lengths of the training records by modality ("audio", "image"); a modality without records is absent.

    texts: int64 [n], caption tokens. seconds: float64 [n], durations of the sounds, uncut.
    basis: what is counted and what assumed, one sentence a part.
    """

    texts: Mapping[str, np.ndarray]
    seconds: np.ndarray
    basis: tuple[str, ...]

    def payloads(self, audio: AudioShape | None, image: ImageShape | None, clip: float) -> dict[str, np.ndarray]:
        """Tokens of each record's medium, int64 [n], with sounds cut to `clip` seconds."""
        out = {}
        if "audio" in self.texts and audio is not None:
            samples = np.minimum(np.ceil(self.seconds * audio.rate - 1e-6), round(clip * audio.rate))
            known, place = np.unique(samples.astype(np.int64), return_inverse=True)
            frames = np.array([audio.frames(int(n)) for n in known], np.int64)
            out["audio"] = frames[place] * audio.width
        if "image" in self.texts and image is not None:
            out["image"] = np.full(len(self.texts["image"]), image.tokens, np.int64)
        return out


def read_corpus(
    root: Path,
    clip: float | None,
    encode: Callable[[list[str]], list[int]] | None,
    sources: Sequence[Mapping[str, Any]] = (),
) -> Corpus:
    """The training records of a run's manifest and split; without them those of the sources, else assumed ones.

    Args:
        root: artifacts/<profile>. clip: codecs.audio.clip_seconds, None without an audio codec.
        encode: captions -> their lengths in tokens; None: the tokenizer is not there yet.
        sources: of the profile.
    """
    manifest, split = root / "manifest" / "data" / "manifest.jsonl", root / "split" / "data" / "split.jsonl"
    if not manifest.is_file() and (there := look(sources)) is not None:
        return _of_sources(there, clip, encode)
    if not manifest.is_file():
        texts = {"image": _assumed_captions()} | ({"audio": _assumed_captions()} if clip else {})
        basis = (
            "records: assumed, none read yet (`doit manifest` reads them)",
            f"sounds: assumed to fill the clip, {clip} s" if clip else "sounds: none",
            "captions: assumed to be as long as the upstream corpora's",
        )
        return Corpus(texts, np.full(ASSUMED_RECORDS, clip or 0.0), basis)
    sides = Labels((row["id"], row["split"]) for row in (iter_jsonl(split) if split.is_file() else ()))
    train = (row for row in iter_jsonl(manifest) if sides.get(row["id"]) in (None, "train"))
    lengths, seconds = {"audio": array("q"), "image": array("q")}, array("d")
    while part := list(islice(train, _COUNTED)):
        found = encode([row["caption"] for row in part]) if encode else [0] * len(part)
        for row, n in zip(part, found, strict=True):
            lengths[row["modality"]].append(n)
            if row["modality"] == "audio":
                seconds.append(row["audio"]["samples"] / row["audio"]["rate"])
    texts = {
        kind: np.array(part, np.int64) if encode else _assumed_captions(len(part))
        for kind, part in lengths.items()
        if part
    }
    counts = ", ".join(f"{len(part)} {kind}" for kind, part in lengths.items())
    basis = (
        f"records: {counts}, the manifest's" + (" of the train split" if len(sides) else "; there is no split yet"),
        "sounds: the manifest's durations",
        "captions: counted" if encode else "captions: assumed, the base's tokenizer is not there",
    )
    return Corpus(texts, np.array(seconds, np.float64), basis)


def _of_sources(found: SourceRecords, clip: float | None, encode: Callable[[list[str]], list[int]] | None) -> Corpus:
    """A corpus of what the sources hold, before bad records and the parts for val and test are taken out."""
    kinds = [kind for kind, part in found.captions.items() if part and (clip or kind != "audio")]
    texts = {
        kind: np.array(encode(part), np.int64) if encode else _assumed_captions(len(part))
        for kind, part in found.captions.items()
        if kind in kinds
    }
    counts = ", ".join(f"{len(texts[kind])} {kind}" for kind in kinds)
    opened = f"sounds: the durations of {len(found.seconds)} files" if found.seconds else "sounds: assumed, as the clip"
    basis = (
        f"records: {counts}, read from the sources{', which have more' * found.cut}; no split yet",
        opened if "audio" in kinds else "sounds: none",
        "captions: counted" if encode else "captions: assumed, the base's tokenizer is not there",
    )
    return Corpus(texts, found.durations(clip or 0.0) if "audio" in kinds else np.zeros(0), basis)


def _assumed_captions(n: int = ASSUMED_RECORDS) -> np.ndarray:
    """int64 [n] along ASSUMED_CAPTION's quantiles, in a fixed order that is not sorted."""
    shares, lengths = zip(*ASSUMED_CAPTION, strict=True)
    places = (np.arange(n) * 0.6180339887498949) % 1.0
    return np.interp(places, shares, lengths).round().astype(np.int64)


def audio_shape(section: Mapping[str, Any] | None, built: Path) -> AudioShape | None:
    """Of the built codec in `built`, else what the profile's section says of a known one.

    Raises:
        UserError: a codec that is neither built nor one of the known.
    """
    if section is None:
        return None
    if (built / registry.FILE_NAME).is_file():
        codec = registry.load_audio(built)
        return AudioShape(
            codec.name, encode_rate(codec), codec.n_codebooks, codec.codebook_size, codec.frames, row_codebooks(codec)
        )
    options = registry.own_options(section)
    if section["name"] == "melrvq":
        from mmpt.codecs.melrvq import MelRvqOptions

        known = {key: options[key] for key in options if key in MelRvqOptions.__dataclass_fields__}
        given = MelRvqOptions(**known)
        hop = given.hop * given.stack
        return AudioShape(
            "melrvq",
            given.sample_rate,
            given.n_codebooks,
            given.codebook_size,
            lambda n: max(1, -(-n // hop)),
        )
    if section["name"] == "encodec":
        return encodec_shape("48khz" in str(options.get("path", "")).lower(), options.get("n_codebooks", 4))
    if told := registry.shape("audio", section):
        rate, frame_rate = int(told.get("encode_rate", told["sample_rate"])), told["frame_rate"]
        return AudioShape(
            section["name"],
            rate,
            int(told["n_codebooks"]),
            int(told["codebook_size"]),
            lambda n: max(1, math.ceil(n * frame_rate / rate - 1e-9)),
            tuple(told.get("row_codebooks", ())),
        )
    raise _unknown("audio", section["name"])


def encodec_shape(stereo_48: bool, n_codebooks: int) -> AudioShape:
    """EnCodec's published geometry: 320 samples per frame; 48 kHz in chunks of 1 s that overlap by 1 %."""
    if not stereo_48:
        return AudioShape("encodec 24 kHz", 24_000, n_codebooks, 1024, lambda n: max(1, -(-n // 320)))

    def chunked(samples: int) -> int:
        return sum(-(-min(48_000, samples - start) // 320) for start in range(0, max(1, samples), 47_520))

    return AudioShape("encodec 48 kHz", 48_000, n_codebooks, 1024, chunked)


def image_shape(section: Mapping[str, Any] | None, built: Path) -> ImageShape | None:
    """Likewise for pictures."""
    if section is None:
        return None
    if (built / registry.FILE_NAME).is_file():
        about = read_json(built / registry.FILE_NAME)
        return ImageShape(about["name"], about["tokens_per_image"], about["codebook_size"])
    options = registry.own_options(section)
    if section["name"] == "patchvq":
        from mmpt.codecs.patchvq import PatchVqOptions

        known = {key: options[key] for key in options if key in PatchVqOptions.__dataclass_fields__}
        given = PatchVqOptions(**known)
        return ImageShape("patchvq", (given.size // given.patch) ** 2, given.codebook_size)
    if section["name"] == "seed":
        return ImageShape("seed", 32, 8192)
    if section["name"] == "llamagen":
        return ImageShape("llamagen", (options.get("size", 256) // 16) ** 2, 16_384)
    if told := registry.shape("image", section):
        return ImageShape(section["name"], int(told["tokens_per_image"]), int(told["codebook_size"]))
    raise _unknown("image", section["name"])


def _unknown(modality: str, name: str) -> UserError:
    return UserError(
        f"how many tokens this {modality} codec gives is not known before it is built",
        where=f"codecs.{modality}",
        found=name,
        fix="run `doit codecs` first; a plug-in that offers shape(options) tells it before",
    )
