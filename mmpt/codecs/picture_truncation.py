"""Is a compressed picture all there? Decoders fill what is missing: half a JPEG that was closed is grey below.

Pillow refuses a file that stops. What it takes for whole is a half that was closed with an end mark (cameras,
repair tools) or filled with zeros to the full size (downloaders that reserve it first). Decoding again shows both:

    bytes added behind the compressed data change nothing in a whole picture, and the lower part of half a one;
    the last zeros of compressed data can be replaced without a change only if they are no part of it.

JPEG, also with several scans, WebP and AVIF are looked at like this. In a progressive JPEG every coefficient must
have been sent in full. PNG has check sums, which Pillow does not compare for the pixels; QOI has an end mark. What lies
behind the pixels (the directory of a TIFF, the notes of a WebP) must not be zeros.
Uncompressed pixels (BMP, PPM, TGA, plain TIFF) filled with zeros are black, which nothing can tell from a black
picture. ITU T.81 (JPEG), RFC 9649 (WebP), PNG third edition, QOI 1.0.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from mmpt.codecs.members import MediaFile

JUNK = bytes((37 * at + 90) % 251 for at in range(64))  # no 0xFF among it, which would be a mark
ZEROS = 24  # this many at the end of compressed data are worth a second look
REPLACED = 8
CORNER = 4  # pixels a side: where the last block of a JPEG lies
END = b"\xff\xd9"
JPEG_TABLES = 347  # tag of a TIFF
_MARK = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")
_PNG = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")

Decode = Callable[[bytes], Image.Image]


def missing_part(path: MediaFile, picture: Image.Image, decode: Decode) -> str:
    """What says that the file lacks a part, or "". `picture` is as decoded; `decode` opens changed bytes."""
    if picture.format in ("JPEG", "MPO"):
        return _jpeg(path.read_bytes(), picture, decode)
    if picture.format in ("PNG", "ICO", "ICNS"):
        return _png(path.read_bytes())
    if picture.format == "QOI":
        ended = path.read_bytes().rstrip(b"\0").endswith(bytes(7) + b"\1")
        return "" if ended else "no end mark"
    if picture.format == "TIFF":
        return _tiff_directory(path.read_bytes())
    if picture.format in ("WEBP", "AVIF"):
        data = path.read_bytes()
        if picture.format == "WEBP" and (missing := _webp_chunks(data)):
            return missing
        payload = _webp_payload(data) if picture.format == "WEBP" else _avif_payload(data)
        if payload and _surplus_zeros(data, payload[1], b"", picture, decode):
            return "zeros where the rest of the picture was"
    return ""


@dataclass
class _Scans:
    """What the markers of a JPEG say. start, end: where the last scan's data lies."""

    progressive: bool = False
    components: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    bits: dict[tuple[int, int], int] = field(default_factory=dict)  # (component, coefficient) -> lowest bit sent
    end: int = 0

    def lacking(self) -> str:
        if missing := self.components - self.seen:
            return f"no scan of {len(missing)} of {len(self.components)} components"
        if self.progressive and len(self.bits) < 64 * len(self.components):
            return "scans of a progressive picture are missing"
        if self.progressive and any(self.bits.values()):
            return "the last scans of a progressive picture are missing"
        return ""


def _jpeg(data: bytes, picture: Image.Image, decode: Decode) -> str:
    scans = _scans(data)
    if scans is None:
        return ""
    if lacking := scans.lacking():
        return lacking
    width, height = picture.size
    corner = np.asarray(picture.crop((max(0, width - CORNER), max(0, height - CORNER), width, height)))
    flat = (corner == corner[:1, :1]).all()
    if (flat or scans.progressive) and _changes(data[: scans.end] + _joined(data, scans.end) + END, picture, decode):
        return "the compressed data stops before the last line"
    if _surplus_zeros(data, scans.end, END, picture, decode):
        return "zeros where the rest of the picture was"
    return ""


def _png(data: bytes) -> str:
    """Compares the check sums of the pixels' chunks, in icons those of every PNG inside."""
    at = -1
    while (at := data.find(_PNG, at + 1)) >= 0:
        place, name = at + len(_PNG), b""
        while name != b"IEND" and place + 12 <= len(data):
            length, name = struct.unpack_from(">I4s", data, place)
            end = place + 8 + length
            if name in _PIXELS and zlib.crc32(data[place + 4 : end]).to_bytes(4, "big") != data[end : end + 4]:
                return f"a chunk {name.decode()} whose check sum is another"
            place = end + 4
    return ""


def _joined(data: bytes, end: int) -> bytes:
    """Bytes that continue compressed data; with restart marks, as further intervals: others would be skipped."""
    marks = _RESTART.findall(data, max(0, end - (1 << 16)), end)
    number = marks[-1][1] if marks else 0
    more = b"".join(b"\xff" + bytes([0xD0 + (number + at) % 8]) + JUNK for at in range(1, 9)) if marks else b""
    return (b"\0" if data[end - 1] == 0xFF else b"") + JUNK + more


def _scans(data: bytes) -> _Scans | None:
    """The markers up to the end of the (first) picture; None for a stream that is laid out otherwise."""
    found, at = _Scans(), 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        mark = data[at + 1]
        if mark == 0xFF:
            at += 1
            continue
        if mark == 0xD9:
            break
        (length,) = struct.unpack_from(">H", data, at + 2)
        body = data[at + 4 : at + 2 + length]
        at += 2 + length
        if 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC) and len(body) >= 6:
            found.progressive = mark in (0xC2, 0xC6, 0xCA, 0xCE)
            found.components = set(body[6 : 6 + 3 * body[5] : 3])
        elif mark == 0xDA:
            if not body or len(body) < 4 + 2 * body[0]:
                return None
            _note_scan(found, body)
            following = _MARK.search(data, at)
            at = found.end = following.start() if following else len(data)
    return found if found.end and found.components else None


def _note_scan(found: _Scans, header: bytes) -> None:
    count = header[0]
    parts = header[1 : 1 + 2 * count : 2]
    first, last, bits = header[1 + 2 * count], header[2 + 2 * count], header[3 + 2 * count] & 15
    found.seen.update(parts)
    for part in parts:
        found.bits.update({(part, at): bits for at in range(first, min(last, 63) + 1)})


def _changes(data: bytes, picture: Image.Image, decode: Decode) -> bool:
    """Whether other bytes give another picture; damaged ones give none, which is another one, too."""
    try:
        return not np.array_equal(np.asarray(decode(data)), np.asarray(picture))
    except Exception:  # whatever a decoder raises
        return True


def _surplus_zeros(data: bytes, end: int, tail: bytes, picture: Image.Image, decode: Decode) -> bool:
    if end < ZEROS or any(data[end - ZEROS : end]):
        return False
    return not _changes(data[: end - REPLACED] + JUNK[:REPLACED] + (tail or data[end:]), picture, decode)


def _webp_payload(data: bytes) -> tuple[int, int] | None:
    """(start, end) of the chunk with the pixels."""
    at = 12
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        if name in (b"VP8 ", b"VP8L"):
            return at + 8, min(at + 8 + length, len(data))
        at += 8 + length + length % 2
    return None


def _webp_chunks(data: bytes) -> str:
    """The notes behind the pixels, how the camera was held among them, must not have become zeros."""
    at, end = 12, min(len(data), 8 + struct.unpack_from("<I", data, 4)[0])
    while at + 8 <= end:
        name, length = struct.unpack_from("<4sI", data, at)
        if name == bytes(4):
            return "zeros where its last chunks were"
        if name == b"EXIF" and data.endswith(bytes(REPLACED)):
            return _tiff_directory(data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0"))
        at += 8 + length + length % 2
    return ""


def _tiff_directory(data: bytes) -> str:
    """Whether the directory, which writers put behind the pixels, became zeros: no entry has tag and type 0."""
    order = ">" if data[:2] == b"MM" else "<"
    big = data[2:4] in (b"\x2b\0", b"\0\x2b")
    try:
        (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    except (struct.error, OverflowError):
        return ""
    start, size = at + (8 if big else 2), 20 if big else 12
    for place in range(start, min(start + count * size, len(data) - size + 1), size):
        tag, _, n, at = struct.unpack_from(order + ("HHQQ" if big else "HHII"), data, place)
        if data[place : place + 4] == bytes(4):
            return "zeros where its directory was"
        if tag == JPEG_TABLES and data[at : at + n][-2:] != END:
            return "its tables stop early"
    return ""


def _avif_payload(data: bytes) -> tuple[int, int] | None:
    """(start, end) of the box with the pixels."""
    at = 0
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if name == b"mdat":
            return at + 8, min(at + length, len(data)) if length > 1 else len(data)
        if length < 8:
            return None
        at += length
    return None
