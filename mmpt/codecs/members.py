"""Media that are a part of a file, read in place through the interface that decoders expect of a path.

Member    a range of bytes of a file, such as a member of a tar
Segment   a part of a long recording, by seconds; only `sound_files` cuts it
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from mmpt.codecs.cells import Cell


@dataclass(frozen=True)
class Member:
    """So many bytes of a file.

    Args:
        file: that holds them. at: place of the first. size: how many. name: of the member, with its suffix.
    """

    file: Path
    at: int
    size: int
    name: str

    @property
    def parent(self) -> Path:
        """The folder of the file, which no message shall name."""
        return self.file.parent

    def stat(self) -> os.stat_result:
        """The file's, with the member's size."""
        found = self.file.stat()
        there = max(0, min(self.size, found.st_size - self.at))
        return os.stat_result((*found[:6], there, *found[7:10]))

    def open(self, mode: str = "rb") -> BinaryIO:
        """A stream over the member's bytes alone."""
        stream = cast(io.FileIO, self.file.open(mode, buffering=0))
        return cast(BinaryIO, io.BufferedReader(_Window(stream, self.at, self.stat().st_size)))

    def read_bytes(self) -> bytes:
        """All its bytes."""
        with self.open() as stream:
            return stream.read()


@dataclass(frozen=True)
class Segment:
    """A part of a recording.

    Args:
        whole: the recording. offset: seconds before the part. duration: seconds; None: to the end.
    """

    whole: Path | Member | Cell
    offset: float
    duration: float | None = None

    @property
    def name(self) -> str:
        """The recording's name."""
        return self.whole.name

    @property
    def parent(self) -> Path:
        """The recording's folder."""
        return self.whole.parent

    def stat(self) -> os.stat_result:
        """The recording's."""
        return self.whole.stat()

    def open(self, mode: str = "rb") -> BinaryIO:
        """A stream over the whole recording."""
        return cast(BinaryIO, self.whole.open(mode))

    def read_bytes(self) -> bytes:
        """The whole recording's bytes."""
        return self.whole.read_bytes()


MediaFile = Path | Member | Cell | Segment
"""What a decoder reads."""


class _Window(io.RawIOBase):
    """A part of an open file as a file of its own."""

    def __init__(self, stream: io.FileIO, start: int, size: int):
        self._stream, self._start, self._size, self._at = stream, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"a place before the beginning: {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]  # any writable buffer
        wanted = max(0, min(len(buffer), self._size - self._at))
        self._stream.seek(self._start + self._at)
        data = self._stream.read(wanted) or b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()
