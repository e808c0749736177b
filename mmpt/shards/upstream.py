"""Records of an upstream run's files: tokens with their ids, read one at a time and checked for form only.

    <dataset>/train/shard-000000.tar, <dataset>/eval/..    Stage 2: members 00000000.json, .audio.npy or
                                                           .image.npy, .text_out.npy or .text_in.npy (int32)
    *.jsonl                                                one sequence a line: tokenized, Stage 3 or Stage 4

Whether ids lie in their segments and token spaces agree is for the gates to say: ids and digests are handed
on as they were found. No pickle is read.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.corpus.problems import Problem
from mmpt.store.errors import UserError
from mmpt.store.numbers import Firsts
from mmpt.tokens.space import TokenSpace

SIDES = ("train", "eval")
SHARD = "shard-*.tar"
_TEXTS = ("text_out", "text_in")
_CONTENT = 32  # hex digits that tell contents apart
_BLOCK = 512  # bytes; a whole archive ends with two blocks of zeros


@dataclass(frozen=True)
class Item:
    """One tokenised medium with its caption.

    Args:
        where: "<dataset>/train/shard-000000.tar#00000000", or "<file>:<line>".
        side: "train" or "eval", as the run had it.
        payload, text: int32 [n], global ids without special tokens.
        token_space: digest that the record carries, by the upstream rule; None where it carries none.
        meta: what the record says of its sound or picture; {} in sequences.
    """

    where: str
    id: str
    source: str
    modality: str
    side: str
    payload: np.ndarray
    text: np.ndarray
    token_space: str | None
    meta: Mapping[str, Any] = field(default_factory=dict)
    license: str = "unknown"

    @property
    def content(self) -> str:
        """SHA-256 of the payload: equal for one recording stored under two ids."""
        return hashlib.sha256(self.payload.astype("<i4").tobytes()).hexdigest()

    @property
    def origin(self) -> str:
        """The recording or picture, as far as the id tells."""
        return origin_of(self.id)


def origin_of(record_id: str) -> str:
    """What of an id names the recording: Clotho's caption number is off, WavCaps' ids are YouTube's or
    Freesound's.
    """
    if match := re.fullmatch(r"(clotho:.+):\d+", record_id):
        return match[1]
    if match := re.fullmatch(r"wavcaps_as:Y(.{11})(?:\.wav)?", record_id):
        return f"youtube:{match[1]}"
    if match := re.fullmatch(r"wavcaps_fsd:(\d+)(?:\.wav)?", record_id):
        return f"freesound:{match[1]}"
    return record_id


def read_all(inputs: Mapping[str, Any], space: TokenSpace) -> Iterator[tuple[str, Item | Problem]]:
    """(where, item or problem) of everything that section `inputs` names; each id once.

    A record that occurs again with the same tokens (Stage 4 has every pair in both directions) is the same
    record; with others it is a problem.

    Raises:
        UserError: a folder without shards, a truncated archive, a file that is not UTF-8.
    """
    known = Firsts()
    for where, item in _everything(inputs, space):
        if isinstance(item, Problem):
            yield where, item
            continue
        content = hashlib.sha256(item.payload.tobytes() + b"|" + item.text.tobytes()).hexdigest()[:_CONTENT]
        first = known.before(item.id, content + where)
        if first is None:
            yield where, item
        elif first[:_CONTENT] != content:
            found = f"other tokens than at {first[_CONTENT:]}"
            yield where, _bad("duplicate_id", item.where, item.id, "duplicate id", found, "the same tokens")


def _everything(inputs: Mapping[str, Any], space: TokenSpace) -> Iterator[tuple[str, Item | Problem]]:
    for dataset in inputs.get("shards", ()):
        yield from read_tars(Path(dataset["path"]), dataset["name"])
    for side in SIDES:
        for path in inputs.get("jsonl", {}).get(side, ()):
            yield from read_sequences(Path(path), side, space)


def read_tars(folder: Path, name: str) -> Iterator[tuple[str, Item | Problem]]:
    """Every sample of a dataset's tar shards, train before eval, in the order of the files.

    Raises:
        UserError: no shard in train, a truncated archive.
    """
    for side in SIDES:
        paths = sorted((folder / side).glob(SHARD))
        if not paths and side == "train":
            raise UserError(
                "no shards there",
                where=f"inputs.shards.{name}",
                found=str(folder / side),
                expected=f"train/{SHARD} and eval/{SHARD}",
            )
        for path in paths:
            place = f"{name}/{side}/{path.name}"
            for key, members in _samples(path, place):
                yield f"{place}#{key}", _item(f"{place}#{key}", members, side, name)


def _samples(path: Path, place: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {suffix: bytes}) of each run of members with one key."""
    key = ""
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                stem, _, suffix = Path(member.name).name.partition(".")
                if members and stem != key:
                    yield key, members
                    members = {}
                key = stem
                content = archive.extractfile(member)
                assert content is not None  # it is a file
                members[suffix] = content.read()
    except (tarfile.TarError, EOFError) as error:
        raise _truncated(place, str(error)) from error
    if not _ends_whole(path):
        raise _truncated(place, "no end mark")
    if members:
        yield key, members


def _ends_whole(path: Path) -> bool:
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - 2 * _BLOCK))
        return size % _BLOCK == 0 and stream.read() == bytes(2 * _BLOCK)


def _truncated(place: str, found: str) -> UserError:
    return UserError(
        "truncated or not a tar archive",
        where=place,
        found=found,
        expected="a whole tar file",
        fix="copy it again from where it was made",
    )


def _item(where: str, members: Mapping[str, bytes], side: str, dataset: str) -> Item | Problem:
    try:
        about = json.loads(members["json"])
        record_id = str(about["id"])
    except (KeyError, ValueError, TypeError) as error:
        found = type(error).__name__
        return _bad("bad_line", where, None, "sample without readable .json", found, "a .json with an id")
    modality = "audio" if str(about.get("task", "")) in ("a2t", "t2a") else "image"
    arrays: dict[str, np.ndarray] = {}
    for name in (modality, *_TEXTS):
        data = members.get(f"{name}.npy")
        promised = (about.get("tokens") or {}).get(name) or 0
        if data is None:
            if promised or name == modality:
                found, expected = "no such member", f"{name}.npy with {promised or 'its'} ids"
                return _bad("missing", where, record_id, f"{name}.npy is missing", found, expected)
            continue
        try:
            array = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            return _bad("unreadable", where, record_id, f"{name}.npy cannot be read", str(error)[:80], "int32 ids")
        if array.ndim != 1 or array.dtype.kind not in "iu" or promised not in (0, len(array)):
            found = f"{array.dtype} {list(array.shape)}"
            expected = f"integers [{promised or 'n'}]"
            return _bad("unreadable", where, record_id, f"{name}.npy is not what its .json says", found, expected)
        arrays[name] = array.astype(np.int32)
    text = next((arrays[name] for name in _TEXTS if len(arrays.get(name, ()))), np.zeros(0, np.int32))
    meta = about.get("meta") or {}
    return Item(
        where,
        record_id,
        str(about.get("source") or dataset),
        modality,
        side,
        arrays[modality],
        text,
        about.get("token_space_sha256") or None,
        meta.get(modality) or {},
        str((meta.get("source_meta") or {}).get("license_hint") or "unknown"),
    )


def read_sequences(path: Path, side: str, space: TokenSpace) -> Iterator[tuple[str, Item | Problem]]:
    """Every line of a JSONL of sequences: {"id", "input_ids", ..}; payload and text lie between their marks.

    Raises:
        UserError: a missing file, or one that is not UTF-8.
    """
    try:
        stream = path.open(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("no such file", where=f"inputs.jsonl.{side}", found=str(path)) from None
    with stream:
        try:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    where = f"{path.name}:{number}"
                    yield where, _sequence(where, line, side, space, path.stem)
        except UnicodeDecodeError as error:
            raise UserError("not UTF-8", where=path.name, found=str(error)[:80]) from error


def _sequence(where: str, line: str, side: str, space: TokenSpace, file: str) -> Item | Problem:
    try:
        about = json.loads(line)
        record_id, ids = str(about["id"]), np.asarray(about["input_ids"], np.int64)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        found = f"{type(error).__name__}: {str(error)[:60]}"
        return _bad("bad_line", where, None, "not a sequence", found, 'an object with "id" and "input_ids"')
    if ids.ndim != 1 or (abs(ids) >= 1 << 31).any():
        return _bad("bad_line", where, record_id, "input_ids are not ids", str(ids.shape), "integers [n]")
    parts = {
        "audio": between(ids, space.special("aud_start"), space.special("aud_end")),
        "image": between(ids, space.special("img_start"), space.special("img_end")),
    }
    text = between(ids, space.special("text_start"), space.special("text_end"))
    media = {modality: part for modality, part in parts.items() if part is not None}
    if len(media) != 1 or text is None:
        shown = ", ".join([*media, *(["text"] if text is not None else [])]) or "neither"
        return _bad("bad_line", where, record_id, "not one medium and one text", shown, "both, once")
    ((modality, payload),) = media.items()
    return Item(
        where,
        record_id,
        str(about.get("source") or about.get("dataset") or file),
        modality,
        side,
        payload.astype(np.int32),
        text.astype(np.int32),
        about.get("token_space_sha256") or None,
    )


def between(ids: np.ndarray, start: int, end: int) -> np.ndarray | None:
    """The ids after the first `start` and before the next `end`; None where one of them is not there."""
    begins = np.flatnonzero(ids == start)
    ends = np.flatnonzero(ids == end)
    ends = ends[ends > begins[0]] if len(begins) else ends[:0]
    return ids[begins[0] + 1 : ends[0]] if len(ends) else None


def items_of(found: Iterable[tuple[str, Item | Problem]], problems: list[Problem]) -> Iterator[Item]:
    """The items; problems are put into the list."""
    for _, one in found:
        if isinstance(one, Problem):
            problems.append(one)
        else:
            yield one


def _bad(kind: str, where: str, record_id: str | None, what: str, found: str, expected: str) -> Problem:
    dataset: Sequence[str] = where.split("/", 1)
    return Problem(kind, dataset[0], where, record_id, what, found, expected, "mend or remove the record")
