"""LlamaGen's image tokenizer: 16,384 codes, a 16 x 16 grid (256 tokens) of a 256-pixel picture, decoded without noise.

`path` is the published file vq_ds16_t2i.pt (vq_ds16_c2i.pt and vq_ds8_c2i.pt are of the same family), or a folder with
one of them. `options.size` is the side in pixels, a multiple of what a code stands for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmpt.codecs.squares import square_quality, to_channels, to_pixels
from mmpt.codecs.validation import check_codebook_size, check_options, picture_codes, together
from mmpt.codecs.weights import Published, load_strictly, place, read_state
from mmpt.store.canonical import canonical_json, read_json, write_json
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError

if TYPE_CHECKING:
    from mmpt.codecs.llamagen_modules import VqModel

modality = "image"

FILES = (
    Published("vq_ds16_t2i.pt", "about 0.29 GB", "hub peizesun/llamagen_t2i"),
    Published("vq_ds16_c2i.pt", "about 0.29 GB", "hub FoundationVision/LlamaGen"),
    Published("vq_ds8_c2i.pt", "about 0.28 GB", "hub FoundationVision/LlamaGen"),
)
OPTIONS = ("path", "size", "codebook_size")
_NESTED = ("ema", "model", "state_dict")  # under which of these keys published files keep their tensors
_STATISTICS = "quantize.codebook_used"  # a buffer that only training reads


class LlamaGen:
    """Image codec `llamagen` over one weight file."""

    name = "llamagen"
    kind = "image"
    quality_metric = "psnr"
    quality_floor = 14.0
    """dB. The published autoencoder reaches about 20 on photographs; noise against a photograph about 9."""

    def __init__(self, file: Path, size: int = 256):
        self.file, self.decode_size = file, size
        self._device = "cpu"
        if size < 1 or size % self.model_scale:
            raise UserError(
                "a picture's side must be a whole number of codes",
                where="codecs.image.size",
                found=size,
                expected=f"a multiple of {self.model_scale}",
            )

    @cached_property
    def model(self) -> VqModel:
        """The autoencoder, loaded strictly."""
        from mmpt.codecs.llamagen_modules import Sizes, VqModel

        state = read_state(self.file, _NESTED)
        state.pop(_STATISTICS, None)
        try:
            model = VqModel(Sizes.of(state))
        except KeyError as error:
            raise UserError(
                "not the weights of a LlamaGen tokenizer",
                where=str(self.file),
                found=f"no tensor {error.args[0]}",
                expected=" or ".join(one.name for one in FILES),
            ) from error
        load_strictly(model, state, self.file)
        return model.eval().float().to(self._device)

    @property
    def model_scale(self) -> int:
        """Pixels that a code stands for along a side."""
        return 2 ** (len(self.model.encoder.conv_blocks) - 1)

    @property
    def codebook_size(self) -> int:
        return self.model.quantize.embedding.num_embeddings

    @property
    def grid(self) -> tuple[int, int]:
        side = self.decode_size // self.model_scale
        return side, side

    @property
    def tokens_per_image(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def proc_size(self) -> int:
        return self.decode_size

    def to(self, device: str) -> LlamaGen:
        """Moves the weights."""
        self._device = device
        self.model.to(device)
        return self

    def encode(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """int32 [tokens_per_image] of each uint8 [H, W, 3], row by row. The middle square, resized, is encoded.

        One at a time on the CPU; on CUDA as one batch, which may decide a near tie otherwise than a picture alone.
        """
        import torch

        codes: list[np.ndarray] = []
        with torch.inference_mode():
            for some in together(pictures, self._device):
                pixels = torch.from_numpy(np.stack([to_channels(one, self.decode_size) for one in some]))
                found = self.model.encode(pixels.to(self._device)).flatten(1)
                codes += list(found.cpu().numpy().astype(np.int32))
        return codes

    def decode(self, codes: Sequence[np.ndarray], seeds: Sequence[int] | None = None) -> list[np.ndarray]:
        """uint8 [decode_size, decode_size, 3] of each; nothing is drawn, `seeds` are for codecs that draw.

        Raises UserError for a wrong number of codes, or one outside the codebook.
        """
        import torch

        with torch.inference_mode():
            legal = [picture_codes(one, self.tokens_per_image, self.codebook_size) for one in codes]
            ids = [torch.from_numpy(one).reshape(1, *self.grid) for one in legal]
            return [to_pixels(self.model.decode(one.to(self._device))[0].cpu().numpy()) for one in ids]

    def quality(self, reference: np.ndarray, output: np.ndarray) -> dict[str, float]:
        """psnr (dB, at most 99) and ssim of a round trip, against the part of `reference` that was encoded."""
        return square_quality(reference, output)

    def code_vectors(self) -> np.ndarray:
        """float32 [1, codebook_size, code_dim], each of length 1."""
        return self.model.codes().detach().cpu().numpy()[None]

    @cached_property
    def _digest(self) -> str:
        return sha256_file(self.file)

    def identity(self) -> str:
        """SHA-256 (hex) of the size and the weight file's digest."""
        told = {"name": self.name, "size": self.decode_size, "file": self._digest}
        return hashlib.sha256(canonical_json(told)).hexdigest()

    def save(self, folder: Path) -> None:
        """The weight file (a hard link where possible) and codec.json."""
        place(self.file, Path(folder) / self.file.name)
        about = {"name": self.name, "kind": self.kind, "identity": self.identity()}
        options = {"file": self.file.name, "size": self.decode_size}
        weights = {self.file.name: self._digest}
        write_json(Path(folder) / "codec.json", {**about, "options": options, "weights": weights})


def create(options: Mapping[str, Any], fit_data: object = None) -> LlamaGen:
    """The codec of a weight file or a folder with one (`path`), for pictures of `size` pixels (default 256)."""
    check_options(options, OPTIONS, "codecs.image")
    codec = LlamaGen(locate(options), options.get("size", 256))
    check_codebook_size(options, codec.codebook_size, "codecs.image", "LlamaGen's")
    return codec


def load(folder: Path) -> LlamaGen:
    """What `LlamaGen.save` wrote."""
    options = read_json(Path(folder) / "codec.json")["options"]
    return LlamaGen(Path(folder) / options["file"], options["size"])


def locate(options: Mapping[str, Any]) -> Path:
    """The weight file that `path` names. Raises UserError that lists the published ones."""
    path = Path(options.get("path", ""))
    if "path" in options and path.is_file():
        return path
    there = [path / one.name for one in FILES if (path / one.name).is_file()] if "path" in options else []
    if len(there) == 1:
        return there[0]
    raise UserError(
        "the folder holds more than one LlamaGen tokenizer" if there else "LlamaGen needs weights that are not there",
        where="codecs.image.path",
        found=", ".join(one.name for one in there) or options.get("path", "nothing"),
        expected="one weight file: " + " or ".join(str(one) for one in FILES),
        fix="name the file in path, or put it into that folder under its published name",
    )
