"""SHA-256 of files and folders: the stat cache that makes it quick, and the MANIFEST that makes it checkable."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmpt.store.canonical import read_json, write_json
from mmpt.store.errors import UserError


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's content, read in pieces."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class StatCache:
    """Digests remembered by (size, mtime, ctime, inode), so that an unchanged file is not read again.

    ctime is in the key because a same-mtime edit (``cp -p``, ``touch -d``) changes it all the same; hashing runs at
    about 1.5 GB/s, a stat at millions of files a minute. A file whose ctime is younger than ``RACY_NS`` when hashed
    is not remembered: an edit within the clock's tick would go unseen.
    """

    RACY_NS = 20_000_000

    def __init__(self, path: Path | None = None):
        self.path, self._known, self._dirty = path, {}, False
        if path is not None and path.exists():
            try:
                self._known = {key: tuple(value) for key, value in read_json(path).items()}
            except (UserError, AttributeError, TypeError):
                self._known = {}  # a damaged cache only costs time

    def digest(self, path: Path | str) -> str:
        """Hex SHA-256 of the file at ``path``, from memory where its stat is unchanged."""
        key = os.path.abspath(path)
        found = os.stat(key)
        stamp = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        known = self._known.get(key)
        if known is not None and known[:4] == stamp:
            return known[4]
        value = sha256_file(key)
        after = os.stat(key)
        racy = _now_ns() - after.st_ctime_ns < self.RACY_NS
        if not racy and (after.st_size, after.st_mtime_ns, after.st_ctime_ns, after.st_ino) == stamp:
            self._known[key], self._dirty = (*stamp, value), True
        return value

    def save(self) -> None:
        """Write the cache to its path, if it has one and learned something."""
        if self.path is not None and self._dirty:
            write_json(self.path, {key: list(value) for key, value in self._known.items()}, durable=False)
            self._dirty = False


def _now_ns() -> int:
    return time.time_ns()


@dataclass(frozen=True, order=True)
class Difference:
    """One way in which a folder is not what its manifest says."""

    path: str
    kind: Literal["missing", "edited", "extra"]
    expected: str = ""
    found: str = ""

    def __str__(self) -> str:
        if self.kind == "edited":
            return f"{self.path}: edited, sha256 {self.found[:12]}.. is not the recorded {self.expected[:12]}.."
        return f"{self.path}: {'missing' if self.kind == 'missing' else 'not in the manifest'}"


@dataclass(frozen=True)
class Manifest:
    """Relative paths and their SHA-256, sorted by path. Its text is ``sha256sum`` format.

    Laws: ``Manifest.parse(str(m)) == m``; ``m.verify(folder) == []`` iff ``Manifest.of(folder) == m``.
    """

    entries: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, folder: Path, cache: StatCache | None = None) -> Manifest:
        """Hash every file below ``folder``; paths are POSIX and relative to it."""
        hashed = cache.digest if cache is not None else sha256_file
        return cls(tuple(sorted((name, hashed(folder / name)) for name in _files(folder))))

    @classmethod
    def parse(cls, text: str, where: object = "manifest") -> Manifest:
        """Read ``sha256sum`` text.

        Raises:
            UserError: a line that is not "<64 hex>  <relative path>", a path that leaves the folder, or one named twice.
        """
        entries = []
        for number, line in enumerate(text.splitlines(), 1):
            value, gap, name = line[:64], line[64:66], line[66:]
            hexadecimal = len(value) == 64 and set(value) <= set("0123456789abcdef")
            if not hexadecimal or gap != "  " or not name or name.startswith("/") or ".." in name.split("/"):
                raise UserError("not a manifest line", where=f"{where}:{number}", found=repr(line[:120]),
                                expected="'<sha256>  <relative path>'")
            entries.append((name, value))
        if len({name for name, _ in entries}) != len(entries):
            raise UserError("a path is listed twice", where=where)
        return cls(tuple(sorted(entries)))

    def __str__(self) -> str:
        return "".join(f"{value}  {name}\n" for name, value in self.entries)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the manifest's text: stands for the whole folder."""
        return sha256_bytes(str(self).encode())

    def verify(self, folder: Path, cache: StatCache | None = None) -> list[Difference]:
        """Every difference between ``folder`` and this manifest, sorted by path."""
        hashed = cache.digest if cache is not None else sha256_file
        present, differences = set(_files(folder)) if folder.is_dir() else set(), []
        for name, value in self.entries:
            if name not in present:
                differences.append(Difference(name, "missing", value))
            elif (found := hashed(folder / name)) != value:
                differences.append(Difference(name, "edited", value, found))
        known = {name for name, _ in self.entries}
        differences += [Difference(name, "extra") for name in present - known]
        return sorted(differences)


def _files(folder: Path) -> Iterator[str]:
    for root, _, files in os.walk(folder):
        for name in files:
            yield os.path.relpath(os.path.join(root, name), folder).replace(os.sep, "/")
