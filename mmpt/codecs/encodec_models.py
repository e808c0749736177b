"""Two implementations of EnCodec behind one interface: transformers' EncodecModel and the `encodec` package.

Both take and give chunks: (codes int64 [K, frames], gain float or None), real frames only. With equal weights their
codes and waves are equal to the bit, and so is what `tensors` names.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mmpt.codecs.weights import load_strictly, place
from mmpt.store.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import EncodecConfig

Chunk = tuple["torch.Tensor", float | None]

# What the package fixes for its two models, as keys of transformers' EncodecConfig; the others have its defaults.
KINDS: dict[str, dict[str, Any]] = {
    "24khz": {},
    "48khz": {
        "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
        "sampling_rate": 48_000,
        "audio_channels": 2,
        "normalize": True,
        "chunk_length_s": 1.0,
        "overlap": 0.01,
        "norm_type": "time_group_norm",
        "use_causal_conv": False,
    },
}
# Buffers that only training reads.
_STATISTICS = ("inited", "cluster_size", "embed_avg")
_RENAMED = (
    (r"\.model\.", ".layers."),
    (r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", r"quantizer.layers.\1.codebook."),
    (r"\.(conv|convtr)\.norm\.", ".norm."),
    (r"\.(conv\.conv|convtr\.convtr)\.", ".conv."),
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
)


class HubModel:
    """EnCodec as transformers runs it, from config.json and model.safetensors."""

    def __init__(self, model: Any):
        self.model = model.eval()
        self.config: EncodecConfig = model.config

    def encode(self, waves: torch.Tensor, bandwidth: float) -> list[list[Chunk]]:
        """Chunks of each of the float32 waves [B, channels, T] at `bandwidth` kbps."""
        coded = self.model.encode(waves, bandwidth=bandwidth)
        codes = coded.audio_codes  # [chunks, B, K, frames of the first chunk]
        last = codes.shape[3] - int(coded.last_frame_pad_length or 0)
        frames = [(one, scale) for one, scale in zip(codes, coded.audio_scales, strict=True)]
        frames[-1] = (codes[-1][..., :last], coded.audio_scales[-1])
        return _by_wave(frames)

    def decode(self, chunk: Chunk) -> torch.Tensor:
        """float32 [channels, frames * hop] of one chunk."""
        return _decoded(self.model, chunk)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What decides codes and waves, by transformers' names."""
        return _deciding(self.model.state_dict())

    def save(self, folder: Path) -> None:
        """config.json and model.safetensors, as published."""
        self.model.save_pretrained(folder)


class PackageModel:
    """EnCodec as the `encodec` package runs it, from an official .th file; `kind` is "24khz" or "48khz"."""

    def __init__(self, kind: str, file: Path, state: dict[str, torch.Tensor]):
        from transformers import EncodecConfig

        self.file = file
        self.model = _architecture(kind)
        load_strictly(self.model, state, file)
        self.model.eval()
        self.config: EncodecConfig = EncodecConfig(**KINDS[kind])

    def encode(self, waves: torch.Tensor, bandwidth: float) -> list[list[Chunk]]:
        """As HubModel.encode."""
        self.model.set_target_bandwidth(bandwidth)
        return _by_wave(self.model.encode(waves))

    def decode(self, chunk: Chunk) -> torch.Tensor:
        """As HubModel.decode."""
        return _decoded(self.model, chunk)

    def tensors(self) -> dict[str, torch.Tensor]:
        """As HubModel.tensors, the same names."""
        return _deciding(renamed(self.model.state_dict()))

    def save(self, folder: Path) -> None:
        """The .th file under its name, which carries its checksum."""
        place(self.file, Path(folder) / self.file.name)


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of the package's model under the names of transformers' model."""
    names = {}
    for name, tensor in state.items():
        for pattern, new in _RENAMED:
            name = re.sub(pattern, new, name)
        names[name] = tensor
    return names


def package() -> ModuleType:
    """The `encodec` package.

    It imports torchaudio, whose wheel cannot load beside a CPU build of torch, and needs it only to read and resample
    files, which we do ourselves. So torchaudio is kept out with an empty module, taken away again before anybody
    else (transformers looks for it) can take it for the real one.
    """
    stands_in = "torchaudio" not in sys.modules
    if stands_in:
        sys.modules["torchaudio"] = ModuleType("torchaudio")
    try:
        import encodec  # by a statement, so that its version is in the receipt of the stages that reach it

        return encodec
    except ImportError as error:
        raise UserError(
            "official .th files are run by the `encodec` package, which cannot be imported",
            where="codecs.audio.path",
            found=str(error),
            expected="encodec 0.1.1 and einops",
            fix="pip install --no-deps encodec && pip install einops "
            "(with dependencies it brings torchaudio, which breaks a CPU torch); or use the transformers folder",
        ) from error
    finally:
        if stands_in:
            del sys.modules["torchaudio"]


def _decoded(model: Any, chunk: Chunk) -> torch.Tensor:
    codes, gain = chunk
    device = next(model.parameters()).device
    wave = model.decoder(model.quantizer.decode(codes[:, None].to(device)))[0]
    return wave if gain is None else wave * gain


def _by_wave(frames: Sequence[tuple[torch.Tensor, torch.Tensor | None]]) -> list[list[Chunk]]:
    """From (codes [B, K, frames], gains [B, 1] or None) a chunk to the chunks of each wave, on the CPU."""
    gains = [None if gain is None else gain.flatten().tolist() for _, gain in frames]
    codes = [one.cpu() for one, _ in frames]
    return [
        [(one[b], None if gain is None else gain[b]) for one, gain in zip(codes, gains, strict=True)]
        for b in range(len(codes[0]))
    ]


def _architecture(kind: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the package uses torch's older weight_norm
        return getattr(package().EncodecModel, f"encodec_model_{kind}")(pretrained=False)


def _deciding(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if name.rpartition(".")[2] not in _STATISTICS}
