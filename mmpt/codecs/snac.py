"""SNAC by its package: codebooks of several rates, whose codes stand in seven rows (24 kHz) or fifteen (32, 44 kHz).

`path` is a folder with config.json and pytorch_model.bin, or the hub id of one (`hubertsiuzdak/snac_24khz`). A frame is
one code of the coarsest codebook; of the others it has 2, 4, .. codes. Their rows are in the order of a tree: a code,
then what its first half holds, then what its second half holds. For three codebooks that is 0 1 2 2 1 2 2, the seven
slots of Orpheus.

The decoder adds noise. Here it is drawn from one seed, so that a code always gives the same wave; its samples beyond
the last whole attention window are decoded with the last frame repeated.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmpt.codecs.hub_folder import CONFIG, located, published_digest, save_published
from mmpt.codecs.network_audio import NetworkAudio
from mmpt.codecs.protocol import AudioCodes
from mmpt.codecs.validation import check_codebook_size, check_options
from mmpt.codecs.weights import load_strictly, read_state
from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError

if TYPE_CHECKING:
    import torch

modality = "audio"
code_vectors = True

OPTIONS = ("path", "n_codebooks", "codebook_size")
FILES = (CONFIG, "pytorch_model.bin")
WHERE = "codecs.audio.path"
EXPECTED = "a folder with config.json and pytorch_model.bin, or a hub id"
FIX = "e.g. path: hubertsiuzdak/snac_24khz, or a folder with its two files"
NOISE = 0


def tree(strides: Sequence[int]) -> list[tuple[int, int]]:
    """(codebook, which of its codes in the frame) of each row.

    Args:
        strides: of the codebooks, each a multiple of the next.
    """

    def below(book: int, place: int) -> list[tuple[int, int]]:
        if book == len(strides):
            return []
        times = strides[book] // strides[book + 1] if book + 1 < len(strides) else 0
        return [(book, place), *(row for half in range(times) for row in below(book + 1, times * place + half))]

    return below(0, 0)


class Snac(NetworkAudio):
    """A SNAC of a folder, cut to its first `n_codebooks` codebooks."""

    channels = 1
    name = "snac"

    def __init__(self, folder: Path, n_codebooks: int | None = None):
        self.folder = Path(folder)
        self.config: Mapping[str, Any] = read_json(self.folder / CONFIG)
        strides = self.config["vq_strides"]
        self.n_codebooks = len(strides) if n_codebooks is None else n_codebooks
        if not 1 <= self.n_codebooks <= len(strides):
            raise UserError(
                "the weights do not have so many codebooks",
                where="codecs.audio.n_codebooks",
                found=n_codebooks,
                expected=f"1..{len(strides)}",
            )
        self._strides = [stride // strides[self.n_codebooks - 1] for stride in strides[: self.n_codebooks]]
        self._slots = tree(self._strides)
        self._hop = int(np.prod(self.config["encoder_rates"])) * strides[0]
        window = self.config.get("attn_window_size") or 1
        self._whole = math.lcm(strides[0], window) // strides[0]

    @cached_property
    def network(self) -> Any:
        """The model of package snac, loaded strictly."""
        model = _package().SNAC(**self.config)
        load_strictly(model, read_state(self.folder / FILES[1]), self.folder / FILES[1])
        return model.eval()

    @property
    def sample_rate(self) -> int:
        return int(self.config["sampling_rate"])

    @property
    def codebook_size(self) -> int:
        return int(self.config["codebook_size"])

    @property
    def frame_rate(self) -> float:
        """Codes of the coarsest codebook per second."""
        return self.sample_rate / self._hop

    @property
    def row_codebooks(self) -> tuple[int, ...]:
        """Codebook of each row of codes."""
        return tuple(book for book, _ in self._slots)

    @property
    def rows(self) -> int:
        """Rows of codes: ids per frame."""
        return len(self._slots)

    def frames(self, samples: int) -> int:
        """Number of frames of a wave of `samples` samples."""
        return max(1, -(-samples // self._hop))

    def samples(self, frames: int) -> int:
        """Samples of the decode of `frames` frames."""
        return frames * self._hop

    def _encode_batch(self, waves: torch.Tensor) -> list[AudioCodes]:
        frames = self.frames(waves.shape[2])
        found = [one.cpu().numpy().astype(np.int32) for one in self.network.encode(waves)[: self.n_codebooks]]
        each = [self._strides[0] // stride for stride in self._strides]
        rows = np.stack([found[book][:, place :: each[book]][:, :frames] for book, place in self._slots], axis=1)
        return [AudioCodes(one) for one in rows]

    def _decode_one(self, item: AudioCodes, codes: torch.Tensor) -> torch.Tensor:
        import torch

        frames = codes.shape[1]
        more = -frames % self._whole
        codes = torch.cat([codes, codes[:, -1:].expand(-1, more)], dim=1).to(self._device)
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(NOISE)
            wave = self.network.decoder(self._latents(codes))
        return wave[0, :, : self.samples(frames)]

    def _latents(self, codes: torch.Tensor) -> torch.Tensor:
        """float [1, D, T]: what the decoder takes, of int64 codes [rows, frames]."""
        import torch

        found: Any = 0.0
        finest = self.config["vq_strides"][-1]
        for book in range(self.n_codebooks):
            rows = torch.stack([codes[row] for row, (own, _) in enumerate(self._slots) if own == book], dim=1)
            quantizer = self.network.quantizer.quantizers[book]
            latent = quantizer.out_proj(quantizer.decode_code(rows.reshape(1, -1)))
            found = found + latent.repeat_interleave(self.config["vq_strides"][book] // finest, dim=-1)
        return found

    @cached_property
    def _digest(self) -> str:
        return published_digest(self.name, self._options, self.config, self.folder / FILES[1])

    @property
    def _options(self) -> dict[str, int]:
        return {"n_codebooks": self.n_codebooks}

    def identity(self) -> str:
        """SHA-256 (hex) of the weight file, of the configuration and of the number of codebooks."""
        return self._digest

    def code_vectors(self) -> np.ndarray:
        """float32 [n_codebooks, codebook_size, D]: the codebooks."""
        books = self.network.quantizer.quantizers[: self.n_codebooks]
        return np.stack([book.codebook.weight.detach().float().cpu().numpy() for book in books])

    def save(self, folder: Path) -> None:
        """Both files as they are, and codec.json."""
        about = {"name": self.name, "kind": "audio", "identity": self.identity(), "options": self._options}
        save_published(self.folder, FILES, Path(folder), about)


def shape(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sizes of the codec, from config.json alone."""
    check_options(options, OPTIONS, "codecs.audio")
    codec = Snac(_located(options, FILES[:1]), options.get("n_codebooks"))
    sizes = {key: getattr(codec, key) for key in ("sample_rate", "n_codebooks", "codebook_size", "frame_rate")}
    return {**sizes, "row_codebooks": codec.row_codebooks}


def create(options: Mapping[str, Any], fit_data: Sequence[np.ndarray] | None = None) -> Snac:
    """The codec of a folder or hub id (`path`), cut to `n_codebooks` (default: all)."""
    check_options(options, OPTIONS, "codecs.audio")
    _package()
    codec = Snac(_located(options), options.get("n_codebooks"))
    check_codebook_size(options, codec.codebook_size, "codecs.audio")
    return codec


def load(folder: Path) -> Snac:
    """What `save` wrote."""
    return Snac(Path(folder), read_json(Path(folder) / "codec.json")["options"]["n_codebooks"])


def _package() -> Any:
    try:
        return importlib.import_module("snac")
    except ImportError as error:
        raise UserError(
            "codec snac needs the package snac",
            where="codecs.audio.name",
            found=str(error),
            expected="an importable package",
            fix='pip install "mmpt[snac]"',
        ) from error


def _located(options: Mapping[str, Any], files: Sequence[str] = FILES) -> Path:
    return located(options, WHERE, EXPECTED, FIX, "put {} of the published model there", FILES, files)
