"""Reader `webdataset`: tars of samples, read in place; nothing is unpacked, and each shard is read once.

    train-000.tar    000017.flac 000017.txt        one sample: members in a row with one name up to its first dot
                     000018.jpg  000018.json       the keys of a JSON object and the suffixes of texts are columns

Records name the shard, the member and its place, so that all later stages read only those bytes. The caption is column
`txt`, else `caption`, else `text`; `columns` names others, as for reader `table`. Compressed tars have no places.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any

from mmpt.codecs.media import Member, is_file
from mmpt.corpus.caption_text import unencodable
from mmpt.corpus.media_folder import AUDIO
from mmpt.corpus.problems import Problem
from mmpt.corpus.segments import share_origin
from mmpt.corpus.table import NAMES, captioned, sides_of
from mmpt.corpus.tables import short
from mmpt.store.errors import UserError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
TEXTS = (".txt", ".json", ".cap", ".caption", ".text", ".id", ".license", ".source")
CAPTIONS = ("txt", "caption", "cap", "text")
MOST = 1 << 20  # bytes of a member that is text
SHARDS = "*.tar"


@dataclass
class _Sample:
    """media: name -> its place in the shard. texts: suffix without the dot -> content."""

    media: dict[str, Member] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    wrong: tuple[str, str, str] | None = None


def read(folder: Path, source: Mapping[str, Any]) -> Iterator[tuple[str, dict | Problem]]:
    """(where, record or problem), shard by shard; of each the first `limit` samples.

    Raises:
        UserError: no shard, or one that is compressed.
    """
    shards = _shards(folder, source)
    for shard, side in zip(shards, sides_of([one.relative_to(folder) for one in shards]), strict=True):
        path = shard.relative_to(folder).as_posix()
        for key, sample in islice(_samples(shard, path), source.get("limit")):
            where = f"{source['name']}/{path}:{key}"
            for item in _records(sample, key, folder, path, where, side, source):
                yield where, item


def _shards(folder: Path, source: Mapping[str, Any]) -> list[Path]:
    found = sorted(path for path in folder.rglob(source.get("file", SHARDS)) if is_file(path))
    if not found:
        other = sorted(path.name for path in folder.rglob("*.t*gz"))[:3]
        raise UserError(
            "no shard below the source's folder",
            where=f"corpus source {source['name']}",
            found=", ".join(other) or str(folder),
            expected=source.get("file", SHARDS),
            fix="a compressed tar cannot be read in place: gunzip it"
            if other
            else "name them as `file:` of the source",
        )
    return found


def _samples(shard: Path, path: str) -> Iterator[tuple[str, _Sample]]:
    """(key, sample) in the order of the shard; a shard that stops early ends in a sample that is wrong."""
    members = groupby(_members(shard, path), lambda one: one[0])
    for key, group in members:
        sample = _Sample()
        for _, name, member, problem in group:
            sample.wrong = sample.wrong or problem
            if member is not None and problem is None:
                _take(sample, name, member)
        yield key, sample


def _members(shard: Path, path: str) -> Iterator[tuple[str, str, Member | None, tuple[str, str, str] | None]]:
    """(key, suffixes, place, what is wrong with it) of every file in a shard."""
    last = "start"
    try:
        with tarfile.open(shard, "r:") as tar:
            for one in tar:
                pure = PurePosixPath(one.name)
                stem, _, suffixes = pure.name.partition(".")
                last = (pure.parent / stem).as_posix()
                if not one.isreg() or not stem or unencodable(one.name):
                    continue
                problem = ("a sparse member", short(one.name), "a member stored whole") if one.issparse() else None
                yield last, suffixes.lower(), Member(shard, one.offset_data, one.size, one.name), problem
                tar.members = []  # type: ignore[attr-defined]  # it keeps every one
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        if isinstance(error, tarfile.ReadError) and last == "start":
            raise UserError(
                "not a tar that can be read in place",
                where=path,
                found=short(str(error)),
                expected="an uncompressed tar",
                fix="gunzip it, or fetch it again",
            ) from None
        yield last, "", None, ("the shard is damaged behind this sample", short(str(error)), "a whole tar")


def _take(sample: _Sample, suffixes: str, member: Member) -> None:
    last = "." + suffixes.rpartition(".")[2]
    if last in AUDIO or last in PICTURES:
        sample.media[member.name] = member
    elif last in TEXTS or suffixes in CAPTIONS:
        if member.size > MOST:
            sample.wrong = ("text is too long", f"{short(member.name)}, {member.size} bytes", f"at most {MOST} bytes")
            return
        try:
            sample.texts[suffixes] = member.read_bytes().decode("utf-8-sig")
        except (UnicodeDecodeError, OSError) as error:
            sample.wrong = ("not UTF-8 text", short(f"{member.name}: {error}"), "UTF-8")


def _records(
    sample: _Sample, key: str, folder: Path, path: str, where: str, side: str | None, source: Mapping[str, Any]
) -> Iterator[dict | Problem]:
    def bad(kind: str, what: str, found: str, expected: str) -> Problem:
        return Problem(kind, source["name"], where, None, what, found, expected, "correct the shard, or leave it out")

    given, wrong = _columns(sample)
    if wrong := sample.wrong or wrong:
        yield bad("bad_line", *wrong)
        return
    if len(sample.media) != 1:
        found = short(", ".join(sample.media)) or "none"
        kind, what = (
            ("ambiguous", "more than one medium in a sample") if sample.media else ("missing", "no medium in a sample")
        )
        yield bad(kind, what, found, "one sound or picture")
        return
    ((name, member),) = sample.media.items()
    modality = "audio" if PurePosixPath(name).suffix.lower() in AUDIO else "image"
    place = {"member": name, "at": member.at, "bytes": member.size}
    own = {modality: path, "id": f"{source['name']}:{path}:{key}", "origin": f"{source['name']}/{path}/{name}"}
    names = {**NAMES, "caption": CAPTIONS}
    for item in captioned(given, own, folder, where, names, side, source):
        if isinstance(item, dict):
            item["media"] |= place
            share_origin(item, member, own["origin"])
        yield item


def _columns(sample: _Sample) -> tuple[dict[str, Any], tuple[str, str, str] | None]:
    """What the sample says of its medium: the objects of its JSON members, and its texts."""
    given: dict[str, Any] = {}
    for suffixes, text in sample.texts.items():
        if suffixes.rpartition(".")[2] != "json":
            given[suffixes] = text.strip()
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            return {}, ("not JSON", short(str(error)), "a JSON object")
        if not isinstance(value, dict):
            return {}, ("not a JSON object", type(value).__name__, "a JSON object")
        given |= {name: one for name, one in value.items() if one is not None}
    half = unencodable(json.dumps(given, ensure_ascii=False))
    return given, ("half of a surrogate pair", half, "Unicode text") if half else None
