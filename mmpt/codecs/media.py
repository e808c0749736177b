"""From a file to the pixels or samples that a codec takes, through Pillow and soundfile only; what cannot be decoded is
said, not guessed.

Pictures come back as uint8 [H, W, 3], upright, transparency over white. Sounds come back as float32 [C, T] at
the asked rate and channel count: channels are averaged, mono is repeated, and RESAMPLER is the one way to
change a rate.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Mapping
from math import gcd
from pathlib import Path, PurePosixPath

import numpy as np
import soundfile
from PIL import Image, ImageOps

from mmpt.codecs.truncation import missing_end
from mmpt.store.errors import UserError

RESAMPLER = "scipy.signal.resample_poly"
MAX_PIXELS = 50_000_000  # a picture beyond this is refused before it is decoded: 150 MB as RGB
CROPS = ("first", "center")
OVER, LOUD = 1.12, 0.01  # 1 dB over full scale; from this share of samples on, to cut them makes another sound
STILL = ("MPO",)  # a phone's JPEG with further views of the same picture behind it

# Everything Pillow and soundfile raise on damaged files.
_PICTURE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class MediaError(UserError):
    """A medium that cannot be used. `kind`: missing, unreadable, empty or outside."""

    def __init__(
        self, kind: str, what: str, *, where: str, found: str = "", expected: str = "", fix: str = ""
    ):
        super().__init__(what, where=where, found=found, expected=expected, fix=fix)
        self.kind = kind


def media_path(record: Mapping, roots: Mapping[str, Path]) -> Path:
    """The file of a record. `roots` maps "corpus" and source names to folders; a path may not leave its root."""
    media = record["media"]
    if media["root"] not in roots:
        raise UserError(
            f"record {record['id']} names an unknown media root",
            found=media["root"],
            expected=" ".join(sorted(roots)),
        )
    return inside(Path(roots[media["root"]]), media["path"])


def inside(root: Path, relative: str) -> Path:
    """`root`/`relative`, refused when it's absolute, climbs out, or is a link to somewhere else."""
    parts = PurePosixPath(relative.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise _outside(relative)
    path = root / parts
    try:
        within = path.resolve().is_relative_to(root.resolve())
    except ValueError:  # a NUL, or what no file name can be spelled with
        raise MediaError(
            "missing",
            "no file can have this name",
            where=repr(relative),
            found=repr(relative),
            expected="a file's name",
            fix="correct it",
        ) from None
    if not within:
        raise _outside(relative)
    return path


def _outside(relative: str) -> MediaError:
    return MediaError(
        "outside",
        "media path leaves the corpus folder",
        where=repr(relative),
        found=repr(relative),
        expected="a relative path below the source's folder",
        fix="move the file there and name it relative to it",
    )


def load_image(path: Path) -> np.ndarray:
    """uint8 [H, W, 3] of a picture file. Raises MediaError (missing, unreadable, empty)."""
    data = _existing(path)
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures on opening; the limit below is lower and refuses instead.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(data)
        if picture.width * picture.height > MAX_PIXELS:
            raise MediaError(
                "unreadable",
                "picture is too large",
                where=path.name,
                found=f"{picture.width} x {picture.height}",
                expected=f"at most {MAX_PIXELS} pixels",
                fix="scale it down",
            )
        if getattr(picture, "n_frames", 1) > 1 and picture.format not in STILL:
            raise MediaError(
                "unreadable",
                "more than one picture in a file",
                where=path.name,
                found=f"{picture.n_frames} frames ({picture.format})",
                expected="one picture",
                fix="save the frame that the caption is about as a file of its own",
            )
        return _rgb(ImageOps.exif_transpose(picture))
    except _PICTURE_ERRORS as error:
        raise MediaError(
            "unreadable",
            "not a readable picture",
            where=path.name,
            found=_said(error, path),
            expected="a file that Pillow decodes",
            fix="re-encode or remove it",
        ) from error


def _rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no known white")
    if picture.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip at 255
        deep = np.asarray(picture).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("pixels beyond 16 bits have no known white")
        grey = (deep >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode in ("RGB", "L", "1", "CMYK", "YCbCr") and "transparency" not in picture.info:
        return np.ascontiguousarray(picture.convert("RGB"))
    over = picture.convert("RGBA")
    white = Image.new("RGBA", over.size, (255, 255, 255, 255))
    return np.ascontiguousarray(Image.alpha_composite(white, over).convert("RGB"))


def read_audio(path: Path) -> tuple[np.ndarray, int]:
    """(float32 [C, T], rate) as the file has it. Raises MediaError (missing, unreadable, empty)."""
    _existing(path)
    try:
        with soundfile.SoundFile(path) as file:
            rate, promised = file.samplerate, file.frames
            samples = file.read(dtype="float32", always_2d=True)
        lost = missing_end(path, len(samples), rate, promised)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        # TypeError: soundfile takes a file named .raw for headerless data and asks for its format.
        raise MediaError(
            "unreadable",
            "not a readable sound",
            where=path.name,
            found=_said(error, path),
            expected="a file that soundfile decodes (wav, flac, ogg, mp3)",
            fix="re-encode or remove it",
        ) from error
    if lost:
        raise MediaError(
            "unreadable",
            "the sound is cut off",
            where=path.name,
            found=lost,
            expected="the whole file",
            fix="fetch it again, or re-encode what is there",
        )
    if not len(samples):
        raise MediaError(
            "empty",
            "sound without samples",
            where=path.name,
            found="0 samples",
            expected="at least one sample",
            fix="remove the record",
        )
    if not np.isfinite(samples).all():
        raise MediaError(
            "unreadable",
            "sound with NaN or infinite samples",
            where=path.name,
            found="non-finite samples",
            expected="finite numbers",
            fix="re-encode or remove it",
        )
    loud = np.count_nonzero(np.abs(samples) > OVER) / samples.size
    if loud > LOUD:
        raise MediaError(
            "unreadable",
            "samples beyond full scale",
            where=path.name,
            found=f"{loud:.0%} of them, up to {np.abs(samples).max():.3g}",
            expected=f"at most {LOUD:.0%} beyond {OVER} of it",
            fix="scale it down",
        )
    return np.ascontiguousarray(samples.T), rate


def load_audio(path: Path, rate: int, channels: int) -> np.ndarray:
    """float32 [channels, T] at `rate` Hz, clipped to -1..1; T = ceil(samples * rate / file's rate)."""
    wave, original = read_audio(path)
    return convert(wave, original, rate, channels)


def convert(wave: np.ndarray, original: int, rate: int, channels: int) -> np.ndarray:
    """float32 [C, T] at `original` Hz -> float32 [channels, T'] at `rate` Hz, by RESAMPLER."""
    if wave.shape[0] != channels:
        wave = np.repeat(wave.mean(axis=0, keepdims=True, dtype=np.float64), channels, axis=0)
    if original != rate:
        from scipy.signal import resample_poly  # takes half a second to load: only for who resamples

        common = gcd(original, rate)
        wave = resample_poly(wave.astype(np.float64), rate // common, original // common, axis=1)
    return np.clip(wave, -1.0, 1.0).astype(np.float32)


def clip(wave: np.ndarray, rate: int, seconds: float, crop: str = "first") -> tuple[np.ndarray, int]:
    """(wave cut to at most `seconds`, start sample). Shorter waves stay as they are: nothing is padded.

    `crop` is "first" or "center". The cut is made here, on the waveform: cutting codes would tear codec
    chunks.
    """
    if crop not in CROPS:
        raise UserError("unknown crop", found=repr(crop), expected=" or ".join(CROPS))
    keep = max(1, round(seconds * rate))
    start = max(0, wave.shape[1] - keep) // 2 if crop == "center" else 0
    return wave[:, start : start + keep], start


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise MediaError(
            "missing",
            "file does not exist",
            where=path.name,
            found="no such file",
            expected="a file",
            fix="restore it or drop the record",
        )
    if path.stat().st_size == 0:
        raise MediaError(
            "empty",
            "file is empty",
            where=path.name,
            found="0 bytes",
            expected="a picture or sound",
            fix="restore it or drop the record",
        )
    return path


def _said(error: BaseException, path: Path) -> str:
    """A library's own words, without this machine's folders in them."""
    return (str(error) or type(error).__name__).replace(str(path.parent) + "/", "").splitlines()[0][:120]
