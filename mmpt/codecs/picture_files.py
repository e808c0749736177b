"""Picture files through Pillow: uint8 [H, W, 3], upright, transparency over white.

A decoder may raise anything on a damaged file (EXIF alone: TypeError, struct.error, KeyError), so every exception
of Pillow is one unreadable picture. EPS, WMF and the formats whose loader is not part of Pillow are not opened:
EPS would start Ghostscript.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
from PIL import Image, ImageOps

from mmpt.codecs.media_files import MediaError, existing, readable, said
from mmpt.codecs.members import MediaFile
from mmpt.codecs.picture_truncation import missing_part

MAX_PIXELS = 50_000_000  # a picture beyond this is refused before it is decoded: 150 MB as RGB
MAX_BYTES = 1 << 30  # of a picture file: 50 million pixels of 16-bit RGBA are 400 MB
BESIDE = 64 << 20  # bytes of a file beside 16 a pixel: a phone's photo may bring seconds of video behind it
STRIP = 4_000_000  # pixels that are converted at once
STILL = ("MPO",)  # a phone's JPEG with further views of the same picture behind it
NOT_OPENED = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")


def load_image(path: MediaFile) -> np.ndarray:
    """uint8 [H, W, 3] of a picture file. Raises MediaError (missing, unreadable, empty)."""
    size = existing(path).stat().st_size
    if size > MAX_BYTES:
        raise _unreadable("file is too large", path, f"{size} bytes", f"at most {MAX_BYTES}", "scale it down")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures (its limit is higher than ours) and of damage that it then reports.
            warnings.simplefilter("ignore")
            with Image.open(readable(path), formats=_formats()) as picture:
                _check(picture, path, size)
                with _PIXELS.taken(picture.width * picture.height):
                    return _decoded(picture, path)
    except MediaError:
        raise
    except Exception as error:  # whatever a decoder raises, MemoryError for an absurd size included
        raise _unreadable(
            "not a readable picture", path, said(error, path), "a file that Pillow decodes", "re-encode or remove it"
        ) from error


def picture_size(path: MediaFile) -> tuple[int, int]:
    """(width, height) by the file's header; (0, 0) where there is no picture, which `load_image` says."""
    try:
        with Image.open(readable(path), formats=_formats()) as picture:
            return picture.size
    except Exception:  # as in `load_image`
        return 0, 0


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(one for one in Image.ID if one not in NOT_OPENED)


def _check(picture: Image.Image, path: MediaFile, size: int) -> None:
    if picture.width * picture.height > MAX_PIXELS:
        found = f"{picture.width} x {picture.height}"
        raise _unreadable("picture is too large", path, found, f"at most {MAX_PIXELS} pixels", "scale it down")
    if size > BESIDE + 16 * picture.width * picture.height:  # its bytes are looked at in memory
        found = f"{size} bytes for {picture.width} x {picture.height} pixels"
        raise _unreadable(
            "file is too large", path, found, "at most 64 MiB beside its pixels", "save the picture alone"
        )
    if picture.mode == "F" or (picture.mode == "I" and picture.format not in ("PNG", "PPM")):
        found = f"mode {picture.mode} ({picture.format})"
        raise _unreadable("pixels with no known white", path, found, "8 or 16 bits per channel", "save it with 8 bits")
    if getattr(picture, "is_animated", False) and picture.format not in STILL:
        frames = getattr(picture, "n_frames", "several")
        raise _unreadable(
            "more than one picture in a file",
            path,
            f"{frames} frames ({picture.format})",
            "one picture",
            "save the frame that the caption is about as a file of its own",
        )


def _decoded(picture: Image.Image, path: MediaFile) -> np.ndarray:
    picture.load()
    if missing := missing_part(path, picture, _open_bytes):
        raise _unreadable("the picture is cut off", path, missing, "the whole file", "fetch it again")
    try:
        picture = ImageOps.exif_transpose(picture)
    except Exception:  # the pixels are whole; what is damaged is the note of how the camera was held
        turned = picture.getexif().get(0x0112, 1)
        if turned != 1:
            raise
    return _rgb(picture)


def _open_bytes(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data), formats=_formats())
    picture.load()
    return picture


def _rgb(picture: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3], converted in strips: the forms in between are several times as large."""
    rows = max(1, STRIP // max(1, picture.width))
    if picture.height <= rows:
        return _strip(picture)
    out = np.empty((picture.height, picture.width, 3), np.uint8)
    for top in range(0, picture.height, rows):
        strip = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        strip.info = picture.info  # a transparent palette entry is noted there
        out[top : top + rows] = _strip(strip)
    return out


def _strip(picture: Image.Image) -> np.ndarray:
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


class _Budget:
    """Pixels that all threads of a process may decode at the same time; a decoder holds about 12 bytes a pixel."""

    def __init__(self, most: int):
        self._left, self._most, self._changed = most, most, threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Wait until this number is free, and take it."""
        pixels = min(pixels, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= pixels)
            self._left -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._left += pixels
                self._changed.notify_all()


_PIXELS = _Budget(2 * MAX_PIXELS)


def _unreadable(what: str, path: MediaFile, found: str, expected: str, fix: str) -> MediaError:
    return MediaError("unreadable", what, where=path.name, found=found, expected=expected, fix=fix)
