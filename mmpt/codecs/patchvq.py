"""The built-in image codec: k-means over square patches of a picture resized to one size.

A token is one patch, row by row; decoding pastes the patches. It is fitted in seconds on the train split and
needs no weights, which is all it is for: real runs bring a learned image tokenizer.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mmpt.codecs.decoders import paste
from mmpt.codecs.image_quality import psnr, resize, ssim
from mmpt.codecs.kmeans import kmeans, nearest
from mmpt.codecs.validation import picture_codes
from mmpt.store.canonical import canonical_json, read_json, write_json
from mmpt.store.errors import UserError
from mmpt.store.tensors import load_tensors, save_tensors

FIT_PATCHES = 16_384
FLAT_SHARE = 0.25
"""Share of the fitted patches drawn evenly; the others by how much they vary: most patches are flat."""


@dataclass(frozen=True)
class PatchVqOptions:
    """What makes two patch codecs alike, their weights apart."""

    size: int = 32
    """Side in pixels of the square that pictures are resized to, and of decoded pictures."""
    patch: int = 4
    """Side in pixels of a patch; divides `size`."""
    codebook_size: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.size, self.patch, self.codebook_size) < 1:
            raise UserError("size, patch and codebook_size must be positive", where="codecs.image", found=asdict(self))
        if self.size % self.patch:
            raise UserError(
                "patch must divide size",
                where="codecs.image.patch",
                found=self.patch,
                expected=f"a divisor of {self.size}",
            )


@dataclass(frozen=True, eq=False)
class PatchVq:
    """Image codec `patchvq`; `codebook` is float32 [codebook_size, patch * patch * 3] in 0..255."""

    options: PatchVqOptions
    codebook: np.ndarray

    name = "patchvq"
    kind = "image"
    quality_metric = "psnr"
    quality_floor = 14.0
    """dB. 64 held-out emoji at size 32, patch 4, 512 codes: worst 16.8, median 21.5."""

    @classmethod
    def fit(cls, pictures: Sequence[np.ndarray], options: PatchVqOptions) -> "PatchVq":
        """Fit the codebook on uint8 [H, W, 3] pictures of any sizes; raises UserError without any."""
        if not len(pictures):
            raise UserError("no pictures to fit the codebook on", where="codecs.image")
        resized = (resize(picture, options.size) for picture in pictures)
        patches = np.concatenate([_patches(picture, options.patch) for picture in resized])
        rng = np.random.default_rng([options.seed, len(patches)])
        return cls(options, kmeans(_choose(patches, rng), options.codebook_size, seed=options.seed))

    @property
    def codebook_size(self) -> int:
        return self.options.codebook_size

    @property
    def grid(self) -> tuple[int, int]:
        side = self.options.size // self.options.patch
        return side, side

    @property
    def tokens_per_image(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def proc_size(self) -> int:
        return self.options.size

    @property
    def decode_size(self) -> int:
        return self.options.size

    def encode(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return int32 [tokens_per_image] for each uint8 [H, W, 3]; codes do not depend on the batch."""
        patches = (_patches(resize(picture, self.options.size), self.options.patch) for picture in pictures)
        return [nearest(each, self.codebook).astype(np.int32) for each in patches]

    def decode(self, codes: Sequence[np.ndarray], seeds: Sequence[int] | None = None) -> list[np.ndarray]:
        """Return uint8 [size, size, 3] for each int [tokens_per_image]; `seeds` are for codecs that draw.

        Raises:
            UserError: wrong number of codes, or one outside the codebook, with its position.
        """
        return [self._paste(np.asarray(each)) for each in codes]

    def prepare(self, picture: np.ndarray) -> np.ndarray:
        """Return uint8 [size, size, 3]: the picture resized, as a codec without loss would give it back."""
        return np.clip(np.rint(resize(picture, self.options.size)), 0, 255).astype(np.uint8)

    def _paste(self, codes: np.ndarray) -> np.ndarray:
        codes = picture_codes(codes, self.tokens_per_image, self.codebook_size)
        return paste(codes, self.codebook, self.options.size, self.options.patch)

    def quality(self, reference: np.ndarray, output: np.ndarray) -> dict[str, float]:
        """psnr (dB, at most 99) and ssim against `reference` (uint8 [H, W, 3]) resized to the codec's size."""
        return {"psnr": psnr(reference, output), "ssim": ssim(reference, output)}

    @cached_property
    def _digest(self) -> str:
        told = canonical_json({"name": self.name, **asdict(self.options)})
        return hashlib.sha256(told + np.ascontiguousarray(self.codebook, dtype="<f4").tobytes()).hexdigest()

    def identity(self) -> str:
        """Hex SHA-256 of options and codebook: equal digests, equal codes."""
        return self._digest

    def code_vectors(self) -> np.ndarray:
        """float32 [1, codebook_size, D]: the patches that the codes stand for."""
        return self.codebook[None]

    def save(self, folder: Path) -> None:
        """Write codec.json and codec.safetensors."""
        about = {"name": self.name, "kind": self.kind, "identity": self.identity(), "options": asdict(self.options)}
        tensors = {"codebook": self.codebook}
        save_tensors(Path(folder) / "codec.safetensors", tensors, {"identity": self.identity()})
        write_json(Path(folder) / "codec.json", about)

    @classmethod
    def load(cls, folder: Path) -> "PatchVq":
        """Read what `save` wrote; raises UserError where weights and codec.json do not belong together."""
        about = read_json(Path(folder) / "codec.json")
        weights = load_tensors(Path(folder) / "codec.safetensors")
        codec = cls(PatchVqOptions(**about["options"]), weights["codebook"])
        if codec.identity() != about["identity"]:
            raise UserError(
                "codec weights do not match codec.json",
                where=Path(folder),
                found=codec.identity(),
                expected=about["identity"],
            )
        return codec


def _patches(picture: np.ndarray, patch: int) -> np.ndarray:
    """Cut float [S, S, 3] into patches [(S / patch)^2, patch * patch * 3], row by row."""
    side = picture.shape[0] // patch
    tiles = picture.reshape(side, patch, side, patch, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(side * side, patch * patch * 3)


def _choose(patches: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw at most FIT_PATCHES of them without replacement, mostly those that vary, in their own order."""
    if len(patches) <= FIT_PATCHES:
        return patches
    spread = patches.std(axis=1, dtype=np.float64)
    share = FLAT_SHARE / len(patches) + (1 - FLAT_SHARE) * spread / max(spread.sum(), 1e-9)
    # Exponential race: the smallest (exponential / weight) are a weighted draw without replacement.
    race = rng.exponential(size=len(patches)) / (share + 1e-12)
    return patches[np.sort(np.argsort(race, kind="stable")[:FIT_PATCHES])]
