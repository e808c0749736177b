"""The picture codecs of transformers that encode and decode: the VQ models of Janus and of Emu3.

`path` is a folder with config.json and model.safetensors of the VQ model alone, or the hub id of one. Both are
published inside whole models, from which transformers saves them:

    JanusForConditionalGeneration.from_pretrained(..).model.vqmodel.save_pretrained(folder)

Pictures are squares: Janus' size is its weights', Emu3 takes any multiple of its factor (`size`, default 256). Emu3's
own rectangles with line ends have another number of ids per picture, which no grammar here allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
from mmpt.codecs.squares import square_quality, to_channels, to_pixels
from mmpt.codecs.validation import check_codebook_size, check_options, picture_codes
from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError

if TYPE_CHECKING:
    import torch

modality = "image"
code_vectors = True

OPTIONS = ("path", "size", "codebook_size")
MODELS = {"janus_vqgan": "JanusVQVAE", "emu3_vqgan": "Emu3VQVAE"}
"""Model type, as config.json has it -> class."""
WHOLE = {"janus": "JanusForConditionalGeneration", "emu3": "Emu3ForConditionalGeneration"}
"""Models that have one of them inside, as `model.vqmodel`."""
READING = ("chameleon_vqgan", "glm_image_vqmodel", "apertus1p5_vision_tokenizer")
"""Encoders without a decoder: nothing shows what their codes, or those of a model, look like."""
EMU3_SIZE = 256
WHERE = "codecs.image.path"
EXPECTED = "a folder with config.json and model.safetensors of a VQ model, or a hub id"
FIX = "path: a folder that model.vqmodel.save_pretrained(..) of a Janus or Emu3 model wrote"


class TransformersImage:
    """One picture codec of transformers, for squares of `size` pixels."""

    quality_metric = "psnr"
    quality_floor = 14.0  # LlamaGen's

    def __init__(self, folder: Path, size: int | None = None):
        self.folder = Path(folder)
        self.name = model_type(self.folder)
        self.codebook_size, self.decode_size, factor = _sizes(self.folder, size)
        self.grid = (self.decode_size // factor,) * 2
        self._device = "cpu"

    @cached_property
    def network(self) -> Any:
        """The model, loaded strictly, in float32."""
        import torch

        return open_strictly(named_class(MODELS[self.name], self.folder), self.folder, dtype=torch.float32)

    @property
    def tokens_per_image(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def proc_size(self) -> int:
        return self.decode_size

    def to(self, device: str) -> TransformersImage:
        """Moves the weights."""
        self._device = device
        self.network.to(device)
        return self

    def encode(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """int32 [tokens_per_image] of each uint8 [H, W, 3], row by row: the middle square, resized; one at a time."""
        import torch

        with torch.inference_mode():
            return [
                self._encoded(torch.from_numpy(to_channels(one, self.decode_size))[None].to(self._device))
                for one in pictures
            ]

    def _encoded(self, pixels: torch.Tensor) -> np.ndarray:
        import torch

        sizes = {"image_sizes": torch.tensor([pixels.shape[2:]])} if self.name == "emu3_vqgan" else {}
        tokens = self.network.encode(pixels, return_dict=True, **sizes).image_tokens
        tokens = tokens[0] if isinstance(tokens, list) else tokens
        return tokens.reshape(-1).cpu().numpy().astype(np.int32)

    def decode(self, codes: Sequence[np.ndarray], seeds: Sequence[int] | None = None) -> list[np.ndarray]:
        """uint8 [size, size, 3] of each; nothing is drawn, `seeds` are for codecs that draw.

        Raises UserError for a wrong number of codes, or one outside the codebook.
        """
        import torch

        found = []
        with torch.inference_mode():
            for one in codes:
                legal = torch.from_numpy(picture_codes(one, self.tokens_per_image, self.codebook_size)).long()
                tokens = legal.reshape(1, *self.grid) if self.name == "emu3_vqgan" else legal[None]
                found.append(to_pixels(self.network.decode(tokens.to(self._device))[0].float().cpu().numpy()))
        return found

    def quality(self, reference: np.ndarray, output: np.ndarray) -> dict[str, float]:
        """psnr (dB, at most 99) and ssim of a round trip, against the part of `reference` that was encoded."""
        return square_quality(reference, output)

    def code_vectors(self) -> np.ndarray:
        """float32 [1, codebook_size, D]; of Janus each of length 1, as its quantizer uses them."""
        vectors = self.network.quantize.embedding.weight.detach().float().cpu().numpy()
        if self.name == "janus_vqgan":
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors[None]

    @cached_property
    def _digest(self) -> str:
        return published_digest(self.name, self._options, settings(self.folder), self.folder / FILES[1])

    @property
    def _options(self) -> dict[str, int]:
        return {"size": self.decode_size}

    def identity(self) -> str:
        """SHA-256 (hex) of the weight file, of the configuration and of the size."""
        return self._digest

    def save(self, folder: Path) -> None:
        """Both files as they are, and codec.json."""
        about = {"name": self.name, "kind": "image", "identity": self.identity(), "options": self._options}
        save_published(self.folder, FILES, Path(folder), about)


def shape(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sizes of the codec, from config.json alone."""
    check_options(options, OPTIONS, "codecs.image")
    codec = TransformersImage(_located(options, (CONFIG,)), options.get("size"))
    return {"tokens_per_image": codec.tokens_per_image, "codebook_size": codec.codebook_size}


def create(options: Mapping[str, Any], fit_data: object = None) -> TransformersImage:
    """The codec of a folder or hub id (`path`), for pictures of `size` pixels."""
    check_options(options, OPTIONS, "codecs.image")
    codec = TransformersImage(_located(options), options.get("size"))
    check_codebook_size(options, codec.codebook_size, "codecs.image")
    return codec


def load(folder: Path) -> TransformersImage:
    """What `save` wrote."""
    return TransformersImage(Path(folder), read_json(Path(folder) / "codec.json")["options"]["size"])


def _sizes(folder: Path, size: int | None) -> tuple[int, int, int]:
    """(codes, side in pixels, pixels that a code stands for along a side)."""
    from transformers import AutoConfig

    name = model_type(folder)
    if name not in MODELS:
        inside = name in WHOLE
        raise UserError(
            "the VQ model is inside this one"
            if inside
            else "this encoder has no decoder, so its pictures cannot be judged"
            if name in READING
            else "not a picture codec of transformers",
            where=f"{WHERE}: {folder.name}/{CONFIG}",
            found=f"model_type {name!r}",
            expected=" or ".join(MODELS),
            fix=f"{WHOLE[name]}.from_pretrained(..).model.vqmodel.save_pretrained(folder)" if inside else FIX,
        )
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    factor = 2 ** (len(config.channel_multiplier) - 1)
    if name == "emu3_vqgan":
        codes, side = config.codebook_size, EMU3_SIZE if size is None else size
        allowed = side >= factor and side % factor == 0
        told = f"a multiple of {factor}"
    else:
        codes, side = config.num_embeddings, config.num_patches * factor
        allowed, told = size in (None, side), str(side)
    if not allowed:
        raise UserError(
            "pictures of this size do not fit the weights", where="codecs.image.size", found=size, expected=told
        )
    return codes, side, factor


def _located(options: Mapping[str, Any], files: Sequence[str] = FILES) -> Path:
    return located(options, WHERE, EXPECTED, FIX, "put {} of the VQ model there", FILES, files)
