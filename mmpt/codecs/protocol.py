"""The protocols of audio and image codecs: media to codes and back. A codec knows no token id and no model.

A third party registers one through the entry-point group `mmpt.codecs`; see registry.py for what the entry point names.
`python -m mmpt.codecs.check NAME` tries everything that is promised here.

Quality. `quality(medium, decode)` returns measures by name; `quality_metric` names the one that gate S3 compares with
`quality_floor` (higher is better). Four names have an accepted baseline in S3, so a codec that can give them should:
`si_sdr_db` and `log_mel_l1` (functions in audio_quality.py), `psnr_db` (also `psnr`) and `ssim` (image_quality.py). S3
also compares decodes with their media by measures of its own (trivial_decodes.py).

Optional attributes: `reconstructs = False` for a decoder that gives another medium with the same content; `to(device)`;
`samples(frames)`; `code_vectors()`; `encode_rate` where `encode` takes waves of another rate than `decode` gives;
`row_codebooks` where codes do not have one row per codebook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True)
class AudioCodes:
    """One recording as codes.

    Args:
        codes: int32 [K, T]; row k holds indices into codebook k, or into `row_codebooks[k]`. Frames of padding are
            left out.
        scales: one gain per chunk, of codecs that normalise loudness; else None. Of generated codes it is None too;
            the codec then uses the gain that it recorded for that case.
        samples: length of the waveform, per channel at `sample_rate`; 0: unknown, decode returns all that it has.
        meta: what else decode needs (chunking), JSON values only.
    """

    codes: np.ndarray
    scales: Sequence[float] | None = None
    samples: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class AudioCodec(Protocol):
    """Waveforms to codes and back. Waves are float32 [channels, T] in -1..1.

    `decode` returns them at `sample_rate`, in samples per second. `encode` takes them at the same rate, or at
    the codec's `encode_rate` (int): n samples there make ceil(n * sample_rate / encode_rate) at `sample_rate`.

    Codebooks of several rates have several rows: `row_codebooks` (a tuple of ints) is the codebook of each row of
    codes, 0, 1, 2, 2, 1, 2, 2 for SNAC's, whose second and third give two and four codes per frame. Without it row k
    is of codebook k.

    A codec may offer `samples(frames)`, the length in samples that `decode` returns for a number of generated frames:
    gate B4 then checks the length of files to the sample, else to the frame.
    """

    @property
    def name(self) -> str: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def frame_rate(self) -> float: ...
    @property
    def n_codebooks(self) -> int: ...
    @property
    def codebook_size(self) -> int: ...
    @property
    def quality_metric(self) -> str:
        """The key of `quality` that the shard audit compares with the floor; higher is better."""
        ...

    @property
    def quality_floor(self) -> float: ...

    def encode(self, waves: Sequence[np.ndarray]) -> list[AudioCodes]:
        """Codes of each wave, which do not depend on the other waves."""
        ...

    def decode(self, codes: Sequence[AudioCodes]) -> list[np.ndarray]:
        """float32 [channels, T] each; T is exactly `samples` where that is given."""
        ...

    def frames(self, samples: int) -> int:
        """Number of frames of a wave of `samples` samples, at the rate of `encode`; at least 1."""
        ...

    def identity(self) -> str:
        """SHA-256 (hex) of weights and settings: equal identities mean equal codes for equal waves.

        Every stage that opens the codec calls this: keep the result.
        """
        ...

    def quality(self, reference: np.ndarray, output: np.ndarray) -> dict[str, float]:
        """Measures of a round trip, `quality_metric` among them; both float32 [channels, T] of one length."""
        ...

    def save(self, folder: Path) -> None:
        """Writes what loading needs into an existing folder; codec.json is completed by the registry."""
        ...


@runtime_checkable
class ImageCodec(Protocol):
    """Pictures to codes and back. Pictures are uint8 [H, W, 3] of any size; the codec resizes."""

    @property
    def name(self) -> str: ...
    @property
    def codebook_size(self) -> int: ...
    @property
    def tokens_per_image(self) -> int: ...
    @property
    def grid(self) -> tuple[int, int]:
        """Rows, columns."""
        ...

    @property
    def proc_size(self) -> int:
        """Side of the encoder's input, pixels."""
        ...

    @property
    def decode_size(self) -> int:
        """Side of a decoded picture, pixels."""
        ...

    @property
    def quality_metric(self) -> str: ...
    @property
    def quality_floor(self) -> float: ...

    def encode(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """int32 [tokens_per_image] each, row by row of the grid."""
        ...

    def decode(self, codes: Sequence[np.ndarray], seeds: Sequence[int] | None = None) -> list[np.ndarray]:
        """uint8 [decode_size, decode_size, 3] each. A decoder that draws noise draws it from the item's seed."""
        ...

    def identity(self) -> str:
        """SHA-256 (hex) of weights and settings."""
        ...

    def quality(self, reference: np.ndarray, output: np.ndarray) -> dict[str, float]:
        """Measures of a round trip, `quality_metric` among them; `reference` may have any size."""
        ...

    def save(self, folder: Path) -> None:
        """Writes what loading needs into an existing folder; codec.json is completed by the registry."""
        ...


def encode_rate(codec: AudioCodec) -> int:
    """Samples per second of the waves that a codec encodes."""
    return getattr(codec, "encode_rate", codec.sample_rate)


def row_codebooks(codec: AudioCodec) -> tuple[int, ...]:
    """Codebook of each row of a codec's codes."""
    return tuple(getattr(codec, "row_codebooks", range(codec.n_codebooks)))


def decoded_samples(codec: AudioCodec, samples: int) -> int:
    """Length in samples of the decode of a wave of `samples` samples at `encode_rate`."""
    return -(-samples * codec.sample_rate // encode_rate(codec))


def frames_of(codec: AudioCodec, seconds: float) -> int:
    """Number of frames of a sound of `seconds` seconds."""
    return codec.frames(max(1, round(seconds * encode_rate(codec))))
