"""Is the end of a sound file there? Decoders play what they find: half a download is a shorter sound to them.

    WAV RIFX RF64 BW64 W64 AIFF AIFC SVX CAF AU NIST    the size that the header gives its samples, against the file's
    Ogg     its pages, one after another: whole, numbered without a gap, one stream; a missing last mark is no loss
    MP3     the bytes that its encoder's header counts; without one, the last frame is whole; the samples read against
            its frames, because libmpg123 stops at an estimate where the bit rate varies and no header counts
    FLAC    its decoder refuses a stream that stops; the samples read against the header's count

Whatever stands before (ID3v2 tags, chunks of any length) is stepped over. Zeros in the place of samples are silence,
which nothing can tell from a silent recording. Sources: EBU Tech 3306 (RF64), Apple AIFF-C and CAF specifications,
RFC 3533 (Ogg), Sony Wave64, ISO 11172-3 with the Xing/Info header as LAME writes it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from mmpt.codecs.members import MediaFile

FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3", "NIST", "SVX")
LEAST = 0.01  # seconds: encoders miscount by a few samples
UNKNOWN = 0x7FFFF000  # what wrote to a pipe did not know the size and put the largest there
CHUNKS = 100_000  # more than this many are no sound file
MP3_EDGES = 5  # frames: the header's own, and the decoder's delay at both ends
PAGE = 27  # bytes of an Ogg page before its lacing values
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_MP3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_KBPS = {
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
}


def missing_end(path: MediaFile, samples: int, rate: int, promised: int) -> str:
    """What the samples that were read say of a part that was not, or "".

    Args:
        samples: read of each channel. rate: Hz. promised: samples as the decoder announced before reading.
    """
    with path.open("rb") as stream:
        start = _after_tags(stream)
        stream.seek(start)
        counted = stream.read(4) in (b"fLaC", b"OggS")
        seconds = (promised - samples) / rate
        if counted:
            return f"{seconds:.2f} s less than it says" if seconds > LEAST else ""
        found = _mp3_start(stream, start)
        if found is None:
            return ""
        frames, _ = _mp3_frames(stream, found[0], path.stat().st_size)
    expected = (frames - MP3_EDGES) * _frame(found[1])[2]  # type: ignore[index]  # it was a frame before
    return f"the decoder gives {samples} samples of {frames} frames" if samples < expected else ""


def missing_structure(path: MediaFile) -> str:
    """What the file's structure says of a part that it once had, without decoding, or ""."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = _after_tags(stream)
        stream.seek(start)
        head = stream.read(16)
        if head[:4] == b"OggS":
            return _ogg(stream, start, size)
        if (found := _samples_chunk(stream, start, head)) is not None:
            at, length = found
            lost = at + length - size
            return f"{lost} of {length} bytes of its samples are missing" if lost > 0 else ""
        if head[:4] == b"fLaC":
            return ""
        return _mp3(stream, start, size)


def _after_tags(stream: BinaryIO) -> int:
    """Where the sound begins behind ID3v2 tags; their size has seven bits a byte."""
    at = 0
    for _ in range(16):
        stream.seek(at)
        head = stream.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            break
        size = sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        at += 10 + size + (10 if head[5] & 16 else 0)
    return at


def _samples_chunk(stream: BinaryIO, start: int, head: bytes) -> tuple[int, int] | None:
    """(place, length) of the samples as the header gives them; None for a format without chunks.

    A length that the writer did not know is none: (place, 0).
    """
    kind, form = head[:4], head[8:12]
    if kind in (b"RIFF", b"RIFX", b"RF64", b"BW64") and form == b"WAVE":
        return _riff(stream, start + 12, kind)
    if kind == b"FORM" and form in (b"AIFF", b"AIFC", b"8SVX", b"16SV"):
        return _first(_chunks(stream, start + 12, ">I"), (b"SSND", b"BODY"))
    if kind == b"riff":
        return _wave64(stream, start)
    if kind == b"caff":
        at, length = _first(_chunks(stream, start + 8, ">q", pad=1), (b"data",))
        return at, max(0, length)
    if kind in (b".snd", b"dns."):
        at, length = struct.unpack((">" if kind == b".snd" else "<") + "II", head[4:12])
        return start + at, length if length < UNKNOWN else 0
    if head[:8] == b"NIST_1A\n":
        return _nist(stream, start)
    return None


def _chunks(stream: BinaryIO, at: int, form: str, pad: int = 2) -> Iterator[tuple[bytes, int, int]]:
    """(name, place, length) of chunks with a name of four bytes and a length in `form`."""
    size = struct.calcsize(form)
    for _ in range(CHUNKS):
        stream.seek(at)
        head = stream.read(4 + size)
        if len(head) < 4 + size:
            return
        (length,) = struct.unpack(form, head[4:])
        yield head[:4], at + 4 + size, length
        if length < 0:
            return
        at += 4 + size + length + length % pad


def _first(chunks: Iterator[tuple[bytes, int, int]], names: tuple[bytes, ...]) -> tuple[int, int]:
    return next(((at, length) for name, at, length in chunks if name in names), (0, 0))


def _riff(stream: BinaryIO, at: int, kind: bytes) -> tuple[int, int]:
    whole = None  # the 64-bit length of the samples, which ds64 gives where 32 bits do not suffice
    for name, place, length in _chunks(stream, at, ">I" if kind == b"RIFX" else "<I"):
        if name == b"ds64" and length >= 16:
            stream.seek(place + 8)
            (whole,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
        if name == b"data":
            if length == 0xFFFFFFFF and whole is not None:
                return place, whole
            return place, length if length < UNKNOWN else 0
    return 0, 0


def _wave64(stream: BinaryIO, at: int) -> tuple[int, int]:
    """Its names have 16 bytes, its lengths count their own head, and chunks begin at multiples of 8."""
    place = at + 40
    for _ in range(CHUNKS):
        stream.seek(place)
        head = stream.read(24)
        if len(head) < 24:
            break
        (length,) = struct.unpack("<q", head[16:])
        if head[:16] == _W64_DATA:
            return place + 24, max(0, length - 24)
        if length < 24:
            break
        place += (length + 7) // 8 * 8
    return 0, 0


def _nist(stream: BinaryIO, start: int) -> tuple[int, int]:
    stream.seek(start)
    lines = stream.read(1024).decode("latin-1").splitlines()
    fields = {parts[0]: parts[2] for line in lines if len(parts := line.split()) == 3}
    try:
        header = int(lines[1])
        counts = [int(fields.get(name, "1")) for name in ("sample_count", "channel_count", "sample_n_bytes")]
    except (ValueError, IndexError):
        return 0, 0
    coded = fields.get("sample_coding", "pcm").startswith(("pcm", "ulaw", "alaw"))
    return (start + header, counts[0] * counts[1] * counts[2]) if coded else (0, 0)


def _ogg(stream: BinaryIO, at: int, size: int) -> str:
    """Walks the pages. Of several streams in a row libsndfile plays the first: that is a loss, too."""
    numbers: dict[int, int] = {}  # stream -> number of its last page
    ended, began_late, broken, last = False, False, "", 0
    while at < size:
        stream.seek(at)
        head = stream.read(PAGE)
        if head[:4] != b"OggS" or len(head) < PAGE:
            break
        flags, serial, number, lacing_size = struct.unpack("<5xB8xII4xB", head)
        lacing = stream.read(lacing_size)
        end = at + PAGE + lacing_size + sum(lacing)
        if len(lacing) < lacing_size or end > size:
            return f"its last page lacks {end - size if len(lacing) == lacing_size else 'a part'} bytes"
        began_late |= bool(flags & 2) and any(numbers.values())
        if serial in numbers and number != (numbers[serial] + 1) & 0xFFFFFFFF:
            broken = broken or f"page {numbers[serial] + 1} is missing"
        numbers[serial], ended, last = number, bool(flags & 4), lacing[-1] if lacing else 0
        at = end
    if began_late:
        return "several sounds in a row, of which only the first would be heard; join them: ffmpeg -i FILE OUT.flac"
    if broken:
        return broken
    if not ended and (at < size or last == 255):
        return "its pages stop before the last one"
    return ""


def _mp3(stream: BinaryIO, start: int, size: int) -> str:
    """By the encoder's count of bytes; without one, by the last frame."""
    found = _mp3_start(stream, start)
    if found is None:
        return ""
    at, first = found
    length, side, _ = _frame(first)  # type: ignore[misc]  # a frame
    counted = frames = 0
    if first[4 + side : 8 + side] in (b"Xing", b"Info"):
        (flags,) = struct.unpack_from(">I", first.ljust(16 + side, b"\0"), 8 + side)
        if flags & 1:
            (frames,) = struct.unpack_from(">I", first.ljust(16 + side, b"\0"), 12 + side)
        if flags & 2:
            (counted,) = struct.unpack_from(">I", first.ljust(24 + side, b"\0"), 12 + side + 4 * (flags & 1))
    elif first[36:40] == b"VBRI":
        (counted,) = struct.unpack_from(">I", first.ljust(50, b"\0"), 46)
    if counted and (lost := at + counted - size) > length:
        return f"{lost} of {counted} bytes that its header counts are missing"
    there, lost = _mp3_frames(stream, at, size)
    if frames - there > 2:  # zeros or other bytes in the place of frames
        return f"{frames - there} of {frames} frames that its header counts are missing"
    return f"its last frame lacks {lost} bytes" if lost and not (counted or frames) else ""


def _mp3_start(stream: BinaryIO, start: int) -> tuple[int, bytes] | None:
    """(place of the first frame, the bytes from there on); None where none begins within 64 kB."""
    stream.seek(start)
    head = stream.read(1 << 16)
    at = head.find(b"\xff")
    while at >= 0 and not _two_frames(head, at):
        at = head.find(b"\xff", at + 1)
    return None if at < 0 else (start + at, head[at:])


def _two_frames(data: bytes, at: int) -> bool:
    """Whether a frame begins there, and another one behind it: two bytes alone look like a frame now and then."""
    if (found := _frame(data[at : at + 4])) is None:
        return False
    following = data[at + found[0] : at + found[0] + 4]
    return len(following) < 4 or _frame(following) is not None


def _mp3_frames(stream: BinaryIO, at: int, size: int) -> tuple[int, int]:
    """(whole frames, bytes that the last one lacks). What follows the last one is a tag, or a part of a frame."""
    buffer, base, frames = b"", at, 0
    while at < size:
        if at + 4 > base + len(buffer):
            stream.seek(at)
            buffer, base = stream.read(1 << 20), at
        head = buffer[at - base : at - base + 4]
        found = _frame(head)
        if found is None:
            return frames, 4 - len(head) if head[:1] == b"\xff" and len(head) < 4 else 0
        if at + found[0] > size:
            return frames, at + found[0] - size
        at, frames = at + found[0], frames + 1
    return frames, 0


def _frame(head: bytes) -> tuple[int, int, int] | None:
    """(bytes of a frame, bytes of its side information, samples); None where no frame begins, or of a free bit rate."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bits, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or bits in (0, 15) or rate == 3:
        return None
    padding, mono = head[2] >> 1 & 1, head[3] >> 6 == 3
    kbps, hz = _KBPS[1 if version == 3 else 2, layer][bits - 1], _MP3_RATES[version][rate]
    if layer == 1:
        return (12_000 * kbps // hz + padding) * 4, 0, 384
    samples = 576 if layer == 3 and version != 3 else 1152
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    return samples * 125 * kbps // hz + padding, side, samples
