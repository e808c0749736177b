"""From records to global ids, in batches of like length. One unusable medium costs one record.

Sounds are cut on the waveform, before encoding: cutting codes would tear a codec's chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mmpt.codecs.media import MediaError, load_clip, load_image, media_path, picture_size
from mmpt.codecs.protocol import AudioCodec, AudioCodes, ImageCodec, decoded_samples, encode_rate
from mmpt.store.errors import UserError
from mmpt.tokens.space import TokenSpace
from mmpt.tokens.stream import Stream

Record = dict[str, Any]

ENCODE_ERRORS = (UserError, OSError, ValueError, ArithmeticError, LookupError, RuntimeError)
"""What a codec, built in or not, raises on a medium it cannot take. MemoryError is the run's problem."""
LOADED = 256_000_000
"""Bytes of media in a batch; twice as many are held, and a picture of 150 MB, the largest, comes alone."""


FIELDS = (
    *("n_codebooks", "frames", "sample_rate", "channels", "samples", "clipped", "scales", "codec_meta"),
    *("encode_size", "decode_size"),
)


@dataclass(frozen=True)
class Encoded:
    """One medium as global ids int32 [n], and the fields of its sidecar that come from encoding: FIELDS."""

    ids: np.ndarray
    fields: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """Why a record could not be encoded."""

    error: str


class Encoder(Protocol):
    """A codec with its loading: the same two steps for both modalities.

    cut: what of a medium is encoded, in words. starts: first id of the segment of each row of codes. stream: the order
    of the ids.
    """

    @property
    def modality(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def codec(self) -> Any: ...
    @property
    def cut(self) -> str: ...
    @property
    def starts(self) -> list[int]: ...
    @property
    def stream(self) -> Stream: ...

    def load(self, record: Mapping[str, Any]) -> Any: ...
    def ground_truth(self, record: Mapping[str, Any]) -> np.ndarray: ...
    def encode(self, media: Sequence[Any]) -> list[Encoded]: ...
    def size(self, record: Record) -> float: ...
    def loaded_bytes(self, record: Record) -> int: ...


@dataclass(frozen=True)
class AudioEncoder:
    """Sounds: cut to ``clip_seconds`` ("first" or "center" of them), encoded, in the token space's order."""

    codec: AudioCodec
    space: TokenSpace
    roots: Mapping[str, Path]
    clip_seconds: float
    crop: str = "first"

    modality = "audio"

    @cached_property
    def identity(self) -> str:
        return self.codec.identity()

    @property
    def cut(self) -> str:
        return f"{self.crop} {self.clip_seconds:g} s"

    @property
    def starts(self) -> list[int]:
        return [one.start for one in self.space.audio_rows]

    @property
    def stream(self) -> Stream:
        return self.space.stream

    def load(self, record: Mapping[str, Any]) -> tuple[np.ndarray, bool]:
        """(float32 [channels, T] as the codec encodes it, was it cut)."""
        return self._clip(record, encode_rate(self.codec))

    def ground_truth(self, record: Mapping[str, Any]) -> np.ndarray:
        """float32 [channels, T]: what a decode is compared with, at the rate of decodes."""
        return self._clip(record, self.codec.sample_rate)[0]

    def _clip(self, record: Mapping[str, Any], rate: int) -> tuple[np.ndarray, bool]:
        path = media_path(record, self.roots)
        return load_clip(path, rate, self.codec.channels, self.clip_seconds, self.crop)

    def encode(self, media: Sequence[tuple[np.ndarray, bool]]) -> list[Encoded]:
        """Ids and fields of loaded sounds."""
        codes = self.codec.encode([wave for wave, _ in media])
        return [self._encoded(one, wave.shape[1], cut) for one, (wave, cut) in zip(codes, media, strict=True)]

    def size(self, record: Record) -> float:
        """Seconds that will be encoded, from the manifest's (or the stored record's) numbers."""
        about = record.get("audio") or {
            "samples": record.get("samples", 0),
            "rate": record.get("sample_rate", 1),
        }
        return min(about["samples"] / about["rate"], self.clip_seconds)

    def loaded_bytes(self, record: Record) -> int:
        """Memory of the loaded clip."""
        return int(self.size(record) * encode_rate(self.codec) * self.codec.channels * 4)

    def _encoded(self, one: AudioCodes, samples: int, cut: bool) -> Encoded:
        frames = int(np.asarray(one.codes).shape[1])
        return Encoded(
            self.space.audio_to_global(one.codes),
            {
                "n_codebooks": self.space.stream.width,
                "frames": frames,
                "sample_rate": self.codec.sample_rate,
                "channels": self.codec.channels,
                "samples": int(one.samples) or decoded_samples(self.codec, samples),
                "clipped": bool(cut),
                "scales": None if one.scales is None else [float(scale) for scale in one.scales],
                "codec_meta": dict(one.meta),
                "encode_size": None,
                "decode_size": None,
            },
        )


@dataclass(frozen=True)
class ImageEncoder:
    """Pictures: the codec resizes them itself."""

    codec: ImageCodec
    space: TokenSpace
    roots: Mapping[str, Path]

    modality = "image"

    @cached_property
    def identity(self) -> str:
        return self.codec.identity()

    cut = "whole"

    @property
    def starts(self) -> list[int]:
        return [one.start for one in self.space.segments(self.modality)]

    stream = Stream((0,))

    def load(self, record: Mapping[str, Any]) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return load_image(media_path(record, self.roots))

    def ground_truth(self, record: Mapping[str, Any]) -> np.ndarray:
        """As `load`."""
        return self.load(record)

    def encode(self, media: Sequence[np.ndarray]) -> list[Encoded]:
        """Ids and fields of loaded pictures."""
        sizes = {"encode_size": [self.codec.proc_size] * 2, "decode_size": [self.codec.decode_size] * 2}
        absent = dict.fromkeys(
            ("n_codebooks", "frames", "sample_rate", "channels", "samples", "clipped", "scales", "codec_meta")
        )
        return [Encoded(self.space.image_to_global(codes), {**absent, **sizes}) for codes in self.codec.encode(media)]

    def size(self, record: Record) -> float:
        """All pictures become the same number of tokens."""
        return 0.0

    def loaded_bytes(self, record: Record) -> int:
        """Memory of the loaded picture: by the manifest, or by the file's header."""
        if about := record.get("image"):
            return 3 * about["width"] * about["height"]
        try:
            width, height = picture_size(media_path(record, self.roots))
        except MediaError:  # `load` says so
            return 0
        return 3 * width * height


def encode_records(
    encoder: Encoder,
    records: Sequence[Record],
    batch: int,
    on_done: Callable[[int], None] = lambda done: None,
    threads: int = 1,
) -> list[Encoded | Failed]:
    """Encode ``records`` in batches of like size; results in the order given.

    A batch in which the codec fails is encoded again one by one, so that only the record at fault is lost. While
    one batch is encoded, ``threads`` threads load the next: reading and resampling work outside the interpreter's
    lock, and a GPU would wait for them. A batch holds at most LOADED bytes of
    media, or one medium.
    """
    if not records:
        return []
    results: list[Encoded | Failed] = [Failed("not reached")] * len(records)
    order = sorted(range(len(records)), key=lambda index: (encoder.size(records[index]), index))
    parts = _parts(encoder, records, order, batch)
    done = 0
    with ThreadPoolExecutor(max(1, threads)) as pool:
        ahead = [pool.submit(encoder.load, records[index]) for index in parts[0]]
        for part, following in zip(parts, [*parts[1:], []], strict=True):
            loading, ahead = ahead, [pool.submit(encoder.load, records[index]) for index in following]
            loaded: dict[int, Any] = {}
            for index, one in zip(part, loading, strict=True):
                try:
                    loaded[index] = one.result()
                except ENCODE_ERRORS as error:
                    results[index] = Failed(_said(error))
            for index, result in zip(loaded, _encode_each(encoder, list(loaded.values())), strict=True):
                results[index] = result
            done += len(part)
            on_done(done)
    return results


def _parts(encoder: Encoder, records: Sequence[Record], order: Sequence[int], batch: int) -> list[list[int]]:
    """The order in batches."""
    parts: list[list[int]] = []
    held = 0
    for index in order:
        more = encoder.loaded_bytes(records[index])
        if not parts or len(parts[-1]) == batch or held + more > LOADED:
            parts.append([])
            held = 0
        parts[-1].append(index)
        held += more
    return parts


def _encode_each(encoder: Encoder, media: list[Any]) -> list[Encoded | Failed]:
    if not media:
        return []
    try:
        return list(encoder.encode(media))
    except ENCODE_ERRORS as error:
        if len(media) == 1:
            return [Failed(_said(error))]
    return [_encode_each(encoder, [one])[0] for one in media]


def _said(error: BaseException) -> str:
    """The error's words without this machine's folders."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return " ".join(part.rsplit("/", 1)[-1] if part.strip("'\"").startswith("/") else part for part in text.split())
