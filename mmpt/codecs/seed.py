"""SEED-2: 32 causal tokens per picture, ids into 8,192 codes; StableUnCLIP paints a picture of 768 pixels from them.

`path` is a folder with the published files under the names of FILES. Networks are opened when first needed: writing
shards never loads the diffusion model, and painting never loads the vision tower. A picture is painted on its own,
from the noise of its own seed, so it does not depend on its batch. Codes are computed in float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmpt.codecs.image_quality import psnr, ssim
from mmpt.codecs.validation import check_codebook_size, check_options, picture_codes, together
from mmpt.codecs.weights import Published, load_strictly, place, read_state, require
from mmpt.store.canonical import canonical_json, read_json, write_json
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError

if TYPE_CHECKING:
    import torch

    from mmpt.codecs.seed_modules import SeedDecoder, SeedEncoder, Sizes

modality = "image"

QUANTIZER, VISION, UNCLIP = "seed_quantizer.pt", "eva_vit_g.pth", "unclip"
DECODE_FILES = (
    Published(QUANTIZER, "about 1 GB", "hub AILab-CVC/seed-tokenizer-2"),
    Published(
        f"{UNCLIP}/model_index.json",
        "with its folder about 8 GB in fp32",
        "hub stabilityai/stable-diffusion-2-1-unclip, the whole folder, .safetensors; "
        "its sister repositories were taken down in 2025-11: keep your own copy",
    ),
)
ENCODE_FILES = (
    Published(
        VISION,
        "2.0 GB",
        "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/" + VISION,
    ),
)
OPTIONS = ("path", "codebook_size", "guidance_scale", "steps", "decode_only")
MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
_READ = (".json", ".safetensors", ".txt")  # what diffusers reads of UNCLIP; no pickles


class Seed:
    """Image codec `seed` over a folder of published files."""

    name = "seed"
    kind = "image"
    reconstructs = False  # StableUnCLIP paints another picture of what the codes say
    quality_metric = "embedding_cosine"
    quality_floor = 0.0
    """A picture that has nothing to do with its reference; no weights were there to measure a higher one. What can fail
    is measured in the run itself, against the decodes of other pictures: S3.own, trivial_mean and gain. Beside them
    stands the accepted baseline (PSNR, SSIM)."""

    def __init__(
        self,
        folder: Path,
        *,
        guidance_scale: float = 10.0,
        steps: int = 20,
        decode_only: bool = False,
        proc_size: int | None = None,
    ):
        require(
            folder,
            DECODE_FILES if decode_only else (*DECODE_FILES, *ENCODE_FILES),
            "SEED-2",
            "codecs.image.path",
        )
        self.folder, self.decode_only = folder, decode_only
        self.guidance_scale, self.steps = guidance_scale, steps
        self._device = "cpu"
        self._proc_size = 224 if decode_only else proc_size

    @cached_property
    def sizes(self) -> Sizes:
        from mmpt.codecs.seed_modules import Sizes

        try:
            return Sizes.of(self._state)
        except KeyError as error:
            raise UserError(
                "not SEED-2's weights",
                where=str(self.folder / QUANTIZER),
                found=f"no tensor {error.args[0]}",
                expected="the file of AILab-CVC/seed-tokenizer-2",
            ) from error

    @property
    def codebook_size(self) -> int:
        return self.sizes.codebook

    @property
    def tokens_per_image(self) -> int:
        return self.sizes.queries

    @property
    def grid(self) -> tuple[int, int]:
        """One row: tokens are an order, not places."""
        return 1, self.tokens_per_image

    @property
    def proc_size(self) -> int:
        """Side of what the vision tower sees: 224 for the published one."""
        return self._proc_size or self.encoder.visual_encoder.image_size

    @cached_property
    def decode_size(self) -> int:
        """Side that the diffusion model paints, from its config files: 768 for the published one."""
        unet = read_json(self.folder / UNCLIP / "unet" / "config.json")
        vae = read_json(self.folder / UNCLIP / "vae" / "config.json")
        return int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)

    def to(self, device: str) -> Seed:
        """Where networks are opened from now on; those that are open move."""
        self._device = device
        for name in ("decoder", "encoder", "painter"):
            if name in self.__dict__:
                self.__dict__[name].to(device)
        return self

    @cached_property
    def _state(self) -> dict[str, torch.Tensor]:
        return read_state(self.folder / QUANTIZER)

    @cached_property
    def decoder(self) -> SeedDecoder:
        """The decode subset of the quantizer file, loaded strictly."""
        from mmpt.codecs.seed_modules import SeedDecoder

        decoder = SeedDecoder(self.sizes)
        load_strictly(decoder, self._state, self.folder / QUANTIZER, others_allowed=True)
        return decoder.eval().to(self._device)

    @cached_property
    def encoder(self) -> SeedEncoder:
        """Vision tower and causal Q-Former, each loaded strictly from its file."""
        from mmpt.codecs.seed_modules import SeedEncoder

        require(self.folder, ENCODE_FILES, "encoding with SEED-2", "codecs.image.path")
        vision = read_state(self.folder / VISION)
        try:
            encoder = SeedEncoder(self.sizes, self._state, vision)
        except KeyError as error:
            raise UserError(
                "not the weights of SEED-2's encoder",
                where=str(self.folder),
                found=f"no tensor {error.args[0]}",
                expected=f"{QUANTIZER} and {VISION} as published",
            ) from error
        rest = {f"visual_encoder.{name}": tensor for name, tensor in vision.items()}
        load_strictly(encoder, {**self._state, **rest}, self.folder / VISION, others_allowed=True)
        return encoder.eval().float().to(self._device)

    @cached_property
    def painter(self) -> Any:
        """diffusers' StableUnCLIPImg2ImgPipeline: float16 on CUDA, as its authors run it, else float32."""
        import torch

        try:
            from diffusers import StableUnCLIPImg2ImgPipeline
        except ImportError as error:
            raise UserError(
                "SEED-2 paints pictures with the `diffusers` package, which cannot be imported",
                where="codecs.image.name: seed",
                found=str(error),
                expected="diffusers and accelerate",
                fix='pip install -e ".[diffusers]"',
            ) from error
        dtype = torch.float16 if self._device.startswith("cuda") else torch.float32
        painter = StableUnCLIPImg2ImgPipeline.from_pretrained(
            self.folder / UNCLIP, torch_dtype=dtype, local_files_only=True, use_safetensors=True
        )
        painter.set_progress_bar_config(disable=True)
        return painter.to(self._device)

    def encode(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """int32 [tokens_per_image] of each uint8 [H, W, 3]; the picture is squeezed into a square.

        One at a time on the CPU; on CUDA as one batch, which may decide a near tie otherwise than a picture alone.
        """
        import torch

        codes: list[np.ndarray] = []
        with torch.inference_mode():
            for some in together(pictures, self._device):
                pixels = torch.cat([self._pixels(one) for one in some])
                codes += list(self.encoder(pixels).cpu().numpy().astype(np.int32))
        return codes

    def _pixels(self, picture: np.ndarray) -> torch.Tensor:
        import torch
        from PIL import Image

        side = (self.proc_size, self.proc_size)
        resized = Image.fromarray(np.ascontiguousarray(picture, np.uint8)).resize(side, Image.Resampling.BICUBIC)
        scaled = (np.asarray(resized, np.float32) / 255 - np.asarray(MEAN, np.float32)) / np.asarray(SPREAD, np.float32)
        return torch.from_numpy(scaled.transpose(2, 0, 1).copy())[None].to(self._device)

    def embed(self, codes: np.ndarray) -> torch.Tensor:
        """float32 [1, embedding]: the image embedding that a picture's ids stand for. UserError for illegal ids."""
        import torch

        legal = picture_codes(codes, self.tokens_per_image, self.codebook_size)
        with torch.inference_mode():
            return self.decoder(torch.from_numpy(legal)[None].to(self._device))

    def decode(self, codes: Sequence[np.ndarray], seeds: Sequence[int] | None = None) -> list[np.ndarray]:
        """uint8 [decode_size, decode_size, 3] of each, painted from the noise of its own seed (0 where not given)."""
        seeds = [0] * len(codes) if seeds is None else seeds
        return [self._paint(self.embed(one), seed) for one, seed in zip(codes, seeds, strict=True)]

    def _paint(self, embedding: torch.Tensor, seed: int) -> np.ndarray:
        import torch

        painter = self.painter
        generator = torch.Generator("cpu").manual_seed(seed % 2**63)  # on the CPU: the same noise on every device
        side = painter.unet.config.sample_size
        noise = torch.randn((1, painter.unet.config.in_channels, side, side), generator=generator)
        dtype = painter.unet.dtype
        painter.scheduler.set_timesteps(self.steps)
        pixels = painter(
            prompt=[""],
            image_embeds=embedding.to(dtype),
            noise_level=0,
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.steps,
            generator=generator,
            latents=(noise * painter.scheduler.init_noise_sigma).to(self._device, dtype),
            output_type="np",
        ).images[0]
        return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)

    def quality(self, reference: np.ndarray, output: np.ndarray) -> dict[str, float]:
        """embedding_cosine: of the embeddings that both pictures' codes stand for; psnr (dB) and ssim at the output's
        size, low by nature: SEED keeps what a picture shows, not its pixels.
        """
        import torch

        first, second = (self.embed(one) for one in self.encode([reference, output]))
        cosine = float(torch.nn.functional.cosine_similarity(first, second)[0])
        return {
            "embedding_cosine": cosine,
            "psnr": psnr(reference, output),
            "ssim": ssim(reference, output),
        }

    def code_vectors(self) -> np.ndarray:
        """float32 [1, codebook_size, code_dim]: the codebook."""
        return self._state["quantize.embedding.weight"].float().numpy()[None]

    @cached_property
    def _files(self) -> dict[str, str]:
        """Name -> sha256 of every file that is read."""
        unclip = self.folder / UNCLIP
        names = [QUANTIZER, *([] if self.decode_only else [VISION])]
        names += [one.relative_to(self.folder).as_posix() for one in unclip.rglob("*") if one.suffix in _READ]
        return {name: sha256_file(self.folder / name) for name in sorted(names)}

    @cached_property
    def _digest(self) -> str:
        settings = {"name": self.name, "guidance_scale": self.guidance_scale, "steps": self.steps}
        return hashlib.sha256(canonical_json({**settings, "files": self._files})).hexdigest()

    def identity(self) -> str:
        """SHA-256 (hex) of the settings and of every file that is read."""
        return self._digest

    def save(self, folder: Path) -> None:
        """The files (hard links where possible: they are gigabytes) and codec.json."""
        for name in self._files:
            place(self.folder / name, Path(folder) / name)
        options = {
            "guidance_scale": self.guidance_scale,
            "steps": self.steps,
            "decode_only": self.decode_only,
        }
        about = {"name": self.name, "kind": self.kind, "identity": self.identity(), "options": options}
        write_json(Path(folder) / "codec.json", {**about, "weights": self._files})


def create(options: Mapping[str, Any], fit_data: object = None) -> Seed:
    """The codec of a local folder (`path`); guidance_scale and steps of the painting, decode_only without a
    vision tower.
    """
    check_options(options, OPTIONS, "codecs.image")
    settings = {key: options[key] for key in ("guidance_scale", "steps", "decode_only") if key in options}
    if "path" not in options:
        raise UserError(
            "SEED-2 needs its weights",
            where="codecs.image.path",
            found="nothing",
            expected="a folder with " + " and ".join(str(one) for one in (*DECODE_FILES, *ENCODE_FILES)),
        )
    codec = Seed(Path(options["path"]), **settings)
    check_codebook_size(options, codec.codebook_size, "codecs.image", "SEED's")
    return codec


def load(folder: Path) -> Seed:
    """What `Seed.save` wrote."""
    about = read_json(Path(folder) / "codec.json")
    return Seed(Path(folder), **about["options"], proc_size=about["proc_size"])
