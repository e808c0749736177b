"""Is the end of a sound file there? Decoders play what they find: half a download is a shorter sound to them.

WAV: the size of the data chunk against the file's. Ogg: the mark on the last page. MP3: the frames that its
encoder's header counts. FLAC needs nothing: its decoder refuses a stream that stops.
"""

from __future__ import annotations

import struct
from pathlib import Path

LEAST = 0.01  # seconds: encoders miscount by a few samples
UNKNOWN = 0x7FFFF000  # what wrote to a pipe did not know the size and put the largest there
TAIL = 1 << 17  # two of the largest Ogg pages
COUNTED = (b"Xing", b"Info")  # an MP3 without either has no count, only an estimate


def missing_end(path: Path, samples: int, rate: int, promised: int) -> str:
    """What says that the file once went on, or nothing.

    Args:
        samples: read, a channel. promised: as the decoder announced before reading.
    """
    with path.open("rb") as stream:
        head = stream.read(1 << 12)
        if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
            lost, whole = _wav_bytes_lost(head, path.stat().st_size)
            seconds = lost / whole * samples / rate if whole else 0.0
            return _said(seconds, "its data chunk") if lost else ""
        if head[:4] == b"OggS":
            stream.seek(max(0, path.stat().st_size - TAIL))
            return "" if _ends_with_last_page(stream.read()) else "no last page"
    if any(mark in head for mark in COUNTED):
        return _said((promised - samples) / rate, "its header")
    return ""


def _ends_with_last_page(tail: bytes) -> bool:
    """Whether the last Ogg page is marked as the last, and there to its end."""
    at = tail.rfind(b"OggS")
    if at < 0 or at + 27 > len(tail) or not tail[at + 5] & 4:
        return False
    lacing = tail[at + 27 : at + 27 + tail[at + 26]]
    return len(lacing) == tail[at + 26] and at + 27 + len(lacing) + sum(lacing) <= len(tail)


def _said(seconds: float, who: str) -> str:
    return f"{seconds:.2f} s less than {who} says" if seconds > LEAST else ""


def _wav_bytes_lost(head: bytes, size: int) -> tuple[int, int]:
    """(bytes of the data chunk beyond the file's end, bytes of it that are there)."""
    at = 12
    while at + 8 <= len(head):
        name, length = struct.unpack_from("<4sI", head, at)
        if name == b"data":
            there = max(0, size - at - 8)
            return (max(0, length - there), min(there, length)) if length < UNKNOWN else (0, there)
        at += 8 + length + length % 2
    return 0, 0
