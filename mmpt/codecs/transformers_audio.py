"""The audio codecs of transformers, one plug-in for all: DAC, Mimi, X-Codec, X-Codec2, Higgs, NeuCodec, WavTokenizer.

`path` is a folder with config.json and model.safetensors, or the hub id of one; config.json says which class it is.
EnCodec's folders open as codec `encodec` does.

A wave is filled up to whole frames, as the library's feature extractors do it, and codes of that silence alone are left
off: n samples are ceil(n / hop) frames. X-Codec2 and NeuCodec also take log-mel features, which
SeamlessM4TFeatureExtractor computes: the same features as their own extractors', without torchaudio.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmpt.codecs import encodec
from mmpt.codecs.hub_folder import (
    CONFIG,
    FILES,
    located,
    model_type,
    named_class,
    open_strictly,
    published_digest,
    save_published,
    settings,
)
from mmpt.codecs.network_audio import NetworkAudio
from mmpt.codecs.protocol import AudioCodes
from mmpt.codecs.transformers_models import CONTINUOUS, FBANK, KINDS, Kind, Sizes
from mmpt.codecs.validation import check_codebook_size, check_options
from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError

if TYPE_CHECKING:
    import torch

modality = "audio"
code_vectors = True

OPTIONS = ("path", "n_codebooks", "codebook_size")
CODEBOOKS = 8
"""Codebooks that are used unless the profile says how many; fewer where the weights have fewer."""
WHERE = "codecs.audio.path"
EXPECTED = "a folder with config.json and model.safetensors, or a hub id"
FIX = "e.g. path: descript/dac_24khz, kyutai/mimi or a folder with the files of one"


class TransformersAudio(NetworkAudio):
    """One audio codec of transformers, cut to its first `n_codebooks` codebooks."""

    channels = 1

    def __init__(self, folder: Path, n_codebooks: int | None = None):
        self.folder = Path(folder)
        self.name = model_type(self.folder)
        self.kind = _kind(self.folder)
        self.sizes = _sizes(self.folder)
        self.n_codebooks = _wanted(self.sizes, n_codebooks)

    @cached_property
    def network(self) -> Any:
        """The model, loaded strictly, in float32."""
        import torch

        _require_package(self.kind, self.name)
        return open_strictly(named_class(self.kind.model, self.folder), self.folder, dtype=torch.float32)

    @property
    def sample_rate(self) -> int:
        return self.sizes.sample_rate

    @property
    def encode_rate(self) -> int:
        return self.sizes.encode_rate

    @property
    def codebook_size(self) -> int:
        return self.sizes.codebook_size

    @property
    def frame_rate(self) -> float:
        """Frames per second; not the configuration's, which some classes round up."""
        return self.sizes.encode_rate / self.sizes.hop

    @property
    def _hop_out(self) -> int:
        """Samples of a frame at `sample_rate`."""
        return self.sizes.hop * self.sizes.sample_rate // self.sizes.encode_rate

    def frames(self, samples: int) -> int:
        """Number of frames of a wave of `samples` samples at `encode_rate`."""
        return max(1, -(-samples // self.sizes.hop))

    def samples(self, frames: int) -> int:
        """Samples of the decode of `frames` frames."""
        return frames * self._hop_out

    def to(self, device: str) -> TransformersAudio:
        """Moves the weights."""
        super().to(device)
        for module in self.network.modules():
            if getattr(module, "_embed", None) is not None:
                module._embed = None  # Mimi keeps vectors that it computed on the device before
        return self

    def _encode_batch(self, waves: torch.Tensor) -> list[AudioCodes]:
        from torch.nn import functional

        hop, n = self.sizes.hop, waves.shape[2]
        if self.kind.lead is not None:
            waves = functional.pad(waves, (0, -(-(n + self.kind.lead) // hop) * hop - n))
        more = _features(waves, self.name, hop) if self.name in FBANK else {}
        depth = self.kind.depth(self.network.config, self.n_codebooks)
        found = self.network.encode(waves, return_dict=True, **depth, **more).audio_codes
        codes = found[:, : self.n_codebooks, : self.frames(n)].cpu().numpy().astype(np.int32)
        return [AudioCodes(one) for one in codes]

    def _decode_one(self, item: AudioCodes, codes: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        found = self.network.decode(audio_codes=codes[None].to(self._device), return_dict=True).audio_values
        wave = found.reshape(1, -1)
        expected = self.samples(codes.shape[1])
        # DAC's transposed convolutions of an odd stride give a few samples fewer: 8 of them at 24 kHz.
        return functional.pad(wave, (0, max(0, expected - wave.shape[1])))[:, :expected]

    @cached_property
    def _digest(self) -> str:
        return published_digest(self.name, self._options, settings(self.folder), self.folder / FILES[1])

    @property
    def _options(self) -> dict[str, int]:
        return {"n_codebooks": self.n_codebooks}

    def identity(self) -> str:
        """SHA-256 (hex) of the weight file, of the configuration and of the number of codebooks."""
        return self._digest

    def code_vectors(self) -> np.ndarray:
        """float32 [n_codebooks, codebook_size, D]: rows of the codebooks; of X-Codec2 and NeuCodec the levels."""
        books = [self.kind.vectors(self.network, k).detach().float().cpu() for k in range(self.n_codebooks)]
        return np.stack([book.reshape(self.codebook_size, -1).numpy() for book in books])

    def save(self, folder: Path) -> None:
        """Both files as they are, and codec.json."""
        about = {"name": self.name, "kind": "audio", "identity": self.identity(), "options": self._options}
        save_published(self.folder, FILES, Path(folder), about)


def shape(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sizes of the codec, from config.json alone.

    Raises:
        UserError: a class that is no codec of discrete codes, or fewer codebooks than are asked for.
    """
    check_options(options, OPTIONS, "codecs.audio")
    folder = _located(options, (CONFIG,))
    if model_type(folder) == "encodec":
        config, n = encodec.read_config(folder), options.get("n_codebooks", 4)
        encodec.bandwidth_of(config, n)
        sizes = Sizes(config.sampling_rate, config.sampling_rate, config.hop_length, n, config.codebook_size)
    else:
        _require_package(_kind(folder), model_type(folder))
        sizes = _sizes(folder)
        n = _wanted(sizes, options.get("n_codebooks"))
    return {**asdict(sizes), "n_codebooks": n, "frame_rate": sizes.encode_rate / sizes.hop}


def fit_format(options: Mapping[str, Any]) -> tuple[int, int] | None:
    """Training waves are wanted by an EnCodec that has gains, and by nothing else."""
    folder = _located(options)
    return encodec.fit_format({"path": str(folder)}) if model_type(folder) == "encodec" else None


def create(options: Mapping[str, Any], fit_data: Sequence[np.ndarray] | None = None) -> NetworkAudio:
    """The codec of a folder or hub id (`path`), cut to `n_codebooks` (default: 8, EnCodec 4, or all there are)."""
    check_options(options, OPTIONS, "codecs.audio")
    folder = _located(options)
    if model_type(folder) == "encodec":
        return encodec.create({**options, "path": str(folder)}, fit_data)
    codec = TransformersAudio(folder, options.get("n_codebooks"))
    check_codebook_size(options, codec.codebook_size, "codecs.audio")
    return codec


def load(folder: Path) -> NetworkAudio:
    """What `save` wrote."""
    if model_type(Path(folder)) == "encodec":
        return encodec.load(folder)
    return TransformersAudio(folder, read_json(Path(folder) / "codec.json")["options"]["n_codebooks"])


def _located(options: Mapping[str, Any], files: Sequence[str] = FILES) -> Path:
    return located(options, WHERE, EXPECTED, FIX, "put {} of the published model there", FILES, files)


def _kind(folder: Path) -> Kind:
    name = model_type(folder)
    if name in KINDS:
        return KINDS[name]
    raise UserError(
        "this model gives continuous latents, no codes" if name in CONTINUOUS else "not an audio codec of transformers",
        where=f"{WHERE}: {folder.name}/{CONFIG}",
        found=f"model_type {name!r}",
        expected=f"one of encodec, {', '.join(KINDS)}",
    )


def _sizes(folder: Path) -> Sizes:
    from transformers import AutoConfig

    return _kind(folder).sizes(AutoConfig.from_pretrained(folder, trust_remote_code=False))


def _wanted(sizes: Sizes, n_codebooks: int | None) -> int:
    wanted = min(CODEBOOKS, sizes.n_codebooks) if n_codebooks is None else n_codebooks
    if not 1 <= wanted <= sizes.n_codebooks:
        raise UserError(
            "the weights do not have so many codebooks",
            where="codecs.audio.n_codebooks",
            found=wanted,
            expected=f"1..{sizes.n_codebooks}",
        )
    return wanted


def _require_package(kind: Kind, name: str) -> None:
    if not kind.package:
        return
    try:
        importlib.import_module(kind.package)
    except (ImportError, OSError) as error:
        raise UserError(
            f"transformers' {kind.model} needs {kind.package}, which cannot be imported",
            where=WHERE,
            found=str(error).splitlines()[0],
            expected=f"{kind.package} of the same build as torch",
            fix=f"install the {kind.package} that belongs to your torch, or use another codec than {name}",
        ) from error


def _features(waves: torch.Tensor, name: str, hop: int) -> dict[str, torch.Tensor]:
    """input_features [B, frames, 160] and their mask, of waves [B, 1, whole frames]."""
    from torch.nn import functional
    from transformers import SeamlessM4TFeatureExtractor

    extractor = SeamlessM4TFeatureExtractor(padding_value=1.0)
    padded = functional.pad(waves[:, 0], (hop // 2, hop // 2)) if FBANK[name] else waves[:, 0]
    found = extractor([one.cpu().numpy() for one in padded], sampling_rate=extractor.sampling_rate, return_tensors="pt")
    return {
        "input_features": found["input_features"].to(waves.device),
        "input_features_mask": found["attention_mask"].to(waves.device),
    }
