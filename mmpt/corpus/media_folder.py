"""What media lie below a folder, looked up by name: one walk instead of a search for each record.

Names are compared whole. A search by prefix would bind clip 918 to the file of clip 91812, and one YouTube id
to another that begins the same.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mmpt.corpus.caption_text import unencodable
from mmpt.corpus.tables import short

AUDIO = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".w64", ".rf64", ".caf", ".au")
# Sounds that libsndfile does not read.
UNREAD = (".m4a", ".mp4", ".aac", ".webm", ".mkv", ".mka", ".wma", ".amr", ".ac3")
ARCHIVES = (".7z", ".zip", ".tar", ".tgz", ".gz", ".rar")
SHOWN = 3


@dataclass(frozen=True)
class MediaFolder:
    """Files below a folder.

    Args:
        files: paths of media relative to the corpus source's folder, with "/", sorted.
        archives: paths of archives: what was downloaded and perhaps not unpacked.
        unread: paths of sounds that must be converted first.

    A name that is not UTF-8 (foreign zip files bring them) is left out: no table can name it.
    """

    files: tuple[str, ...]
    archives: tuple[str, ...]
    unread: tuple[str, ...] = ()

    @classmethod
    def of(cls, root: Path, below: str = ".", suffixes: Iterable[str] = AUDIO) -> MediaFolder:
        """Walk `root`/`below`; hidden folders are left out."""
        files: list[str] = []
        archives: list[str] = []
        unread: list[str] = []
        for folder, inner, names in os.walk(root / below):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            for name in names:
                path = os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")
                if unencodable(path):
                    continue
                suffix = os.path.splitext(name)[1].lower()
                if suffix in suffixes:
                    files.append(path)
                elif suffix in ARCHIVES or _volume(suffix):
                    archives.append(path)
                elif suffix in UNREAD:
                    unread.append(path)
        return cls(*(tuple(sorted(paths)) for paths in (files, archives, unread)))

    def where(self, keep: Callable[[PurePosixPath], bool]) -> MediaFolder:
        """Those media that `keep` says yes to."""
        return MediaFolder(tuple(f for f in self.files if keep(PurePosixPath(f))), self.archives, self.unread)

    def by_name(self) -> dict[str, list[str]]:
        """File name -> paths."""
        return self._by(lambda path: path.name)

    def by_stem(self) -> dict[str, list[str]]:
        """File name without its suffix -> paths."""
        return self._by(lambda path: path.stem)

    def _by(self, name: Callable[[PurePosixPath], str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for path in self.files:
            found[plain(name(PurePosixPath(path)))].append(path)
        return dict(found)

    def packed(self) -> str:
        """How the archives may be named in a message, or ""."""
        return _listed(self.archives)

    def to_convert(self) -> str:
        """How the sounds in formats that are not read may be named in a message, or ""."""
        return _listed(self.unread)


def _listed(paths: tuple[str, ...]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(map(short, paths[:SHOWN])) + more


def plain(name: str) -> str:
    """A name as it is compared: no spaces around, in one Unicode form (some systems' archives bring another)."""
    return unicodedata.normalize("NFC", name).strip()


def _volume(suffix: str) -> bool:
    """.z01, .z02, .001: parts of an archive in volumes."""
    return suffix[1:].isdigit() or (suffix[:2] == ".z" and suffix[2:].isdigit())
