"""SHA-256 of files, and the manifest: the digests of all files of a folder, by which the folder is checked."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmpt.store.errors import UserError
from mmpt.store.scan import scan

if TYPE_CHECKING:
    from mmpt.store.stat_cache import StatCache

LINE = re.compile("[0-9a-f]{64}  (.+)")


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's content, read in pieces."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True, order=True)
class Difference:
    """One file in which a folder differs from its manifest.

    Args:
        path: relative to the folder.
        expected, found: hex SHA-256 in the manifest and of the file; "" where there is none.
    """

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
        """Hash every file below ``folder``; paths are POSIX and relative to it. A link counts as its target.

        Args:
            cache: use its digests for files whose stat is unchanged; None: every byte is read.
        """
        if cache is not None:
            return cls(tuple(sorted(cache.hashes(folder).items())))
        return cls(tuple(sorted((name, sha256_file(folder / name)) for name in scan(folder))))

    @classmethod
    def parse(cls, text: str, where: object = "manifest") -> Manifest:
        """Read ``sha256sum`` text.

        Raises:
            UserError: a line that is not "<64 hex>  <relative path>", a path outside the folder, or a path named twice.
        """
        entries = []
        for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
            found = LINE.fullmatch(line)
            if found is None or found[1][0] == "/" or (".." in line and ".." in found[1].split("/")):
                raise UserError(
                    "not a manifest line",
                    where=f"{where}:{number}",
                    found=repr(line[:120]),
                    expected="'<sha256>  <relative path>'",
                )
            entries.append((found[1], line[:64]))
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
        """Every difference between ``folder`` and this manifest, sorted by path.

        Args:
            cache: as of ``of``.
        """
        found = dict(Manifest.of(folder, cache).entries) if folder.is_dir() else {}
        if found == (known := dict(self.entries)):
            return []
        differences = [
            Difference(name, "missing", value) if name not in found else Difference(name, "edited", value, found[name])
            for name, value in known.items()
            if found.get(name) != value
        ]
        return sorted(differences + [Difference(name, "extra") for name in found.keys() - known.keys()])
