"""Digests of the files that a run uses of its sources' folders: the part of them that fingerprints cover.

    stage corpus       the reader's tables by content, and which files there are
    the stages after   the media that its records name, by content

A folder may hold a data set of which a run uses a hundredth. So all its files are looked at (their stat), those that
are used are hashed, and what was learned is kept with a digest of all stats: a run with nothing to do reads no file and
no list of names. The folders are looked at once, and again for each stage that is built.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpt.corpus.source_tables import MEASURES, is_table, tables
from mmpt.store.canonical import digest_json
from mmpt.store.digests import sha256_file
from mmpt.store.jsonl import iter_jsonl
from mmpt.store.scan import Look, look, scan
from mmpt.store.stat_cache import RACY_NS, StatCache, read_cache, write_cache

if TYPE_CHECKING:
    from mmpt.profile import Profile

NOT_YET = "unknown before the corpus is read"


class Sources:
    """The folders of one profile's sources.

    Args:
        cache: of the project, for what lies outside of its artifacts.
        path: file that keeps the answers: {folder: [digest of its stats, {question: answer}]}.
    """

    def __init__(self, profile: Profile, cache: StatCache, path: Path):
        self._roots, self._cache, self._path = profile.media_roots(), cache, path
        self._sections = {one["name"]: one for one in profile.data["corpus"]["sources"]} if self._roots else {}
        self._known: dict[str, list[Any]] = read_cache(path)
        self._seen: dict[str, Look] = {}  # by source
        self._here: dict[tuple[str, str], str] = {}  # answers of this look
        self._dirty = False

    def look_again(self) -> None:
        """Forget how the folders looked: the next question looks at them."""
        self._seen.clear()
        self._here.clear()

    def tables(self, name: str) -> str:
        """Digest of what stage corpus reads of a source."""
        section, root = self._sections[name], self._roots[name]
        patterns = tables(section)
        if not patterns:
            return self._cache.folder_digest(root)
        measured = section["reader"] in MEASURES
        question = f"tables {digest_json([patterns, measured])}"
        return self._answer(name, question, lambda: self._of_tables(root, patterns, measured))

    def named(self, name: str, records: Path) -> str:
        """Digest of the media of a source that the records name.

        Args:
            records: records.jsonl of stage corpus.
        """
        if not records.is_file():
            return NOT_YET
        question = f"named by {self._cache.digest(records)}"
        return self._answer(name, question, lambda: self._of_media(name, records))

    def save(self) -> None:
        """Keep the answers for the next process."""
        if self._dirty:
            write_cache(self._path, self._known)
            self._dirty = False

    def _answer(self, name: str, question: str, work: Callable[[], str]) -> str:
        if (here := self._here.get((name, question))) is not None:
            return here
        key, seen = str(self._roots[name]), self._look(name)
        known = self._known.get(key, ["", {}])
        value = known[1].get(question) if known[0] == seen.digest else None
        if value is None:
            value = work()
            settled = time.time_ns() - seen.youngest >= RACY_NS
            if settled and look(self._roots[name]).digest == seen.digest:
                kept = known[1] if known[0] == seen.digest else {}
                self._known[key] = [seen.digest, {**kept, question: value}]
                self._dirty = True
        self._here[name, question] = value
        return value

    def _look(self, name: str) -> Look:
        if name not in self._seen:
            self._seen[name] = look(self._roots[name])
        return self._seen[name]

    def _of_tables(self, root: Path, patterns: tuple[str, ...], measured: bool) -> str:
        stamps = scan(root)
        found = self._cache.hashes(root, [path for path in stamps if is_table(path, patterns)])
        there = sorted((path, stamp[0] if measured else 0) for path, stamp in stamps.items() if path not in found)
        return digest_json({"tables": found, "files": there})

    def _of_media(self, name: str, records: Path) -> str:
        root = self._roots[name]
        named = {one["media"]["path"] for one in iter_jsonl(records) if one["media"]["root"] == name}
        found = self._cache.hashes(root, named)
        # Reached another way than the folder was walked ("a/../b.png"): read, since no stat of it is known.
        found |= {path: _content(root / path) for path in named - found.keys()}
        return digest_json(found)


def _content(path: Path) -> str:
    return sha256_file(path) if path.is_file() else "absent"
