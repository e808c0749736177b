"""EnCodec, 24 kHz and 48 kHz, through transformers' EncodecModel or the `encodec` package.

24 kHz: mono, one stretch of frames, no gain. 48 kHz: stereo, chunks of 1 s that overlap by 1 %, each divided
by its loudness; the chunk gains ("scales") and frame counts are stored with the codes, so that they decode as
they were encoded. The last chunk has its real frames only (transformers pads them to a whole chunk): padding never
becomes training data. Codes that a model made have no gains: they get the median of the
training clips' gains.

Files: the published folder layout (config.json, model.safetensors), or an official .th file; see encodec_weights.py.
Equal weights have one identity in either layout.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmpt.codecs.encodec_weights import locate, open_model, read_config
from mmpt.codecs.network_audio import NetworkAudio
from mmpt.codecs.protocol import AudioCodes
from mmpt.codecs.validation import check_codebook_size, check_options
from mmpt.store.canonical import canonical_json, read_json, write_json
from mmpt.store.errors import UserError

if TYPE_CHECKING:
    import torch

    from mmpt.codecs.encodec_models import Chunk, HubModel, PackageModel

modality = "audio"

OPTIONS = ("path", "n_codebooks", "codebook_size")
SILENCE = 1e-4  # chunk gains below it are silence, 80 dB under full scale; they don't count for the median
# What of config.json decides which codes a wave becomes.
_GEOMETRY = (
    "sampling_rate",
    "audio_channels",
    "normalize",
    "chunk_length_s",
    "overlap",
    "hidden_size",
    "num_filters",
    "num_residual_layers",
    "upsampling_ratios",
    "norm_type",
    "kernel_size",
    "last_kernel_size",
    "residual_kernel_size",
    "dilation_growth_rate",
    "use_causal_conv",
    "pad_mode",
    "compress",
    "num_lstm_layers",
    "trim_right_ratio",
    "codebook_size",
    "codebook_dim",
    "use_conv_shortcut",
)


class Encodec(NetworkAudio):
    """An EnCodec model cut to its first `n_codebooks` codebooks; `median_scale` is None for models without
    gains.
    """

    name = "encodec"

    def __init__(self, model: HubModel | PackageModel, n_codebooks: int, median_scale: float | None = None):
        self._run, self.network = model, model.model
        self.config = model.config
        self.channels = int(model.config.audio_channels)
        self.n_codebooks = n_codebooks
        self.median_scale = median_scale
        self._bandwidth = bandwidth_of(self.config, n_codebooks)

    @property
    def sample_rate(self) -> int:
        return int(self.config.sampling_rate)

    @property
    def codebook_size(self) -> int:
        return int(self.config.codebook_size)

    @property
    def frame_rate(self) -> float:
        """Frames per second within a chunk: 75 at 24 kHz, 150 at 48 kHz. Overlaps add about 1 % to the latter."""
        return self.sample_rate / self.config.hop_length

    def frames(self, samples: int) -> int:
        """Number of frames of a wave of `samples` samples, over all its chunks."""
        return sum(self.chunk_frames(samples))

    def samples(self, frames: int) -> int:
        """Samples per channel of the decode of `frames` generated frames."""
        hop, stride = self.config.hop_length, self.config.chunk_stride
        if stride is None or self.config.chunk_length is None:
            return frames * hop
        whole = -(-self.config.chunk_length // hop)
        before = (frames - 1) // whole
        last = before * stride + (frames - before * whole) * hop
        return max(last, (before - 1) * stride + whole * hop) if before else last

    def chunk_frames(self, samples: int) -> list[int]:
        """Frames of each chunk; one entry for a model without chunks."""
        hop, chunk, stride = self.config.hop_length, self.config.chunk_length, self.config.chunk_stride
        if chunk is None or stride is None:
            return [max(1, -(-samples // hop))]
        return [-(-min(chunk, samples - start) // hop) for start in range(0, max(1, samples), stride)]

    def _encode_batch(self, waves: torch.Tensor) -> list[AudioCodes]:
        """meta["chunk_frames"]: real frames of each chunk; scales: a gain for each, or None."""
        return [self._coded(chunks) for chunks in self._run.encode(waves, self._bandwidth)]

    def _coded(self, chunks: Sequence[Chunk]) -> AudioCodes:
        codes = np.concatenate([one[: self.n_codebooks].numpy() for one, _ in chunks], axis=1)
        scales = [gain for _, gain in chunks if gain is not None] if self.config.normalize else None
        meta = {"chunk_frames": [int(one.shape[1]) for one, _ in chunks]}
        return AudioCodes(codes.astype(np.int32), scales, meta=meta)

    def _decode_one(self, item: AudioCodes, codes: torch.Tensor) -> torch.Tensor:
        """Chunking comes from meta["chunk_frames"], else from `samples`, else whole chunks are assumed. Raises
        UserError for frames, chunks and samples that don't belong together.
        """
        lengths = self._lengths(item, codes.shape[1])
        gains = self._gains(item, len(lengths))
        chunks = zip(codes.split(lengths, dim=1), gains, strict=True)
        return self._overlapped([self._run.decode(chunk).float() for chunk in chunks])

    def _overlapped(self, chunks: Sequence[torch.Tensor]) -> torch.Tensor:
        """The chunks [channels, n] laid over each other at their places, each weighted by a triangle as long as the
        first: what both libraries do, whose own sum breaks where a short last chunk ends inside the one before.
        """
        import torch

        if self.config.chunk_stride is None:
            return chunks[0]
        starts = [i * self.config.chunk_stride for i in range(len(chunks))]
        length = max(start + chunk.shape[1] for start, chunk in zip(starts, chunks, strict=True))
        place = torch.linspace(0, 1, chunks[0].shape[1] + 2, device=chunks[0].device)[1:-1]
        triangle = 0.5 - (place - 0.5).abs()
        total = torch.zeros(chunks[0].shape[0], length, device=chunks[0].device)
        weight = torch.zeros(length, device=chunks[0].device)
        for start, chunk in zip(starts, chunks, strict=True):
            here = slice(start, start + chunk.shape[1])
            total[:, here] += triangle[: chunk.shape[1]] * chunk
            weight[here] += triangle[: chunk.shape[1]]
        return total / weight

    def _lengths(self, item: AudioCodes, frames: int) -> list[int]:
        if "chunk_frames" in item.meta:
            lengths = [int(n) for n in item.meta["chunk_frames"]]
        elif item.samples:
            lengths = self.chunk_frames(item.samples)
        elif self.config.chunk_length is None:
            lengths = [frames]
        else:
            whole = -(-self.config.chunk_length // self.config.hop_length)
            lengths = [min(whole, frames - at) for at in range(0, frames, whole)]
        if sum(lengths) != frames:
            raise UserError(
                "codes don't fill the chunks they're said to have",
                found=f"{frames} frames",
                expected=f"{sum(lengths)} = {' + '.join(map(str, lengths))}",
            )
        return lengths

    def _gains(self, item: AudioCodes, chunks: int) -> list[float | None]:
        if not self.config.normalize:
            return [None] * chunks
        scales: list[float | None] = (
            [self.median_scale] * chunks if item.scales is None else [float(one) for one in item.scales]
        )
        if scales and scales[0] is None:
            raise UserError(
                "generated codes need the corpus' median gain, and this codec was made without one",
                expected="a codec made by stage codecs from the train split",
            )
        if len(scales) != chunks:
            raise UserError("one gain a chunk is needed", found=f"{len(scales)} scales", expected=f"{chunks}")
        return scales

    def fit_gain(self, waves: Sequence[np.ndarray]) -> None:
        """Sets `median_scale` to the median gain over all chunks of the waves that are not silence."""
        gains = [gain for wave in waves for gain in self.gains(wave) if gain > SILENCE]
        self.median_scale = float(np.median(gains)) if gains else 1.0

    def gains(self, wave: np.ndarray) -> list[float]:
        """What the model divides each chunk of a float32 [channels, T] wave by: RMS of its mono mix, plus
        1e-8.
        """
        chunk, stride = self.config.chunk_length or wave.shape[1], self.config.chunk_stride or wave.shape[1]
        mono = wave.mean(axis=0, dtype=np.float64)
        pieces = [mono[start : start + chunk] for start in range(0, len(mono), stride)]
        return [float(np.sqrt(np.mean(piece**2))) + 1e-8 for piece in pieces]

    @cached_property
    def _digest(self) -> str:
        about = {key: _plain(getattr(self.config, key)) for key in _GEOMETRY}
        digest = hashlib.sha256(canonical_json({"name": self.name, "n_codebooks": self.n_codebooks, **about}))
        for name, tensor in sorted(self._run.tensors().items()):
            array = tensor.detach().cpu().numpy()
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def identity(self) -> str:
        """SHA-256 (hex) of weights, geometry and number of codebooks."""
        return self._digest

    def code_vectors(self) -> np.ndarray:
        """float32 [n_codebooks, codebook_size, D]: the vectors of the residual quantizer."""
        tensors = self._run.tensors()
        books = (tensors[f"quantizer.layers.{k}.codebook.embed"] for k in range(self.n_codebooks))
        return np.stack([book.detach().float().cpu().numpy() for book in books])

    def save(self, folder: Path) -> None:
        """The weights in the layout they came in, and codec.json."""
        self._run.save(folder)
        write_json(
            Path(folder) / "codec.json",
            {
                "name": self.name,
                "kind": "audio",
                "identity": self.identity(),
                "options": {"n_codebooks": self.n_codebooks},
                "median_scale": self.median_scale,
            },
        )


def fit_format(options: Mapping[str, Any]) -> tuple[int, int] | None:
    """Training waves are wanted only for the median gain, by models that have gains."""
    config = read_config(locate(options))
    return (int(config.sampling_rate), int(config.audio_channels)) if config.normalize else None


def create(options: Mapping[str, Any], fit_data: Sequence[np.ndarray] | None = None) -> Encodec:
    """The codec of a local folder, a .th file or a hub id (`path`), cut to `n_codebooks` (default 4)."""
    check_options(options, OPTIONS, "codecs.audio")
    model = open_model(locate(options))
    check_codebook_size(options, model.config.codebook_size, "codecs.audio", "EnCodec's")
    codec = Encodec(model, options.get("n_codebooks", 4))
    if codec.config.normalize and fit_data:
        codec.fit_gain(fit_data)
    return codec


def load(folder: Path) -> Encodec:
    """What `Encodec.save` wrote."""
    about = read_json(Path(folder) / "codec.json")
    return Encodec(open_model(locate({"path": str(folder)})), about["options"]["n_codebooks"], about["median_scale"])


def bandwidth_of(config: Any, n_codebooks: int) -> float:
    """The lowest bandwidth (kbps) of the model with at least this number of codebooks; residual ones only add
    detail.
    """
    each = config.frame_rate * config.codebook_nbits / 1000
    for bandwidth in sorted(config.target_bandwidths):
        if int(bandwidth / each + 1e-6) >= n_codebooks >= 1:
            return bandwidth
    most = int(max(config.target_bandwidths) / each + 1e-6)
    raise UserError(
        "EnCodec doesn't have so many codebooks",
        where="codecs.audio.n_codebooks",
        found=n_codebooks,
        expected=f"1..{most}",
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
