"""The token space: one vocabulary for text, special, image and audio ids, laid end to end.

    TEXT 0..  | SPECIAL (64 slots, 10 named) | IMAGE (one row a code) | AUDIO_CB0 | AUDIO_CB1 | ..

It knows which id means which code and nothing else: no tokenizer, no codec, no model. Two spaces with the
same `digest` give every id the same meaning; the digest therefore covers sizes, ranges, specials and the
identities of tokenizer and codecs, and never paths, times or devices.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from mmpt.store.atomic import atomic_write
from mmpt.store.canonical import digest_json, read_json, write_json
from mmpt.store.errors import UserError
from mmpt.tokens.layout import check_layout
from mmpt.tokens.names import SPECIALS, Range
from mmpt.tokens.stream import Stream, stream_of

VERSION = "mmpt_token_space_1"
FILE_NAME = "token_space.json"
SHA_NAME = "token_space.sha256"

# The keys of a codec's description that decide the meaning of an id. The others (local_path, device, fp16,
# clip_seconds, resize ..) say where or how fast it runs, or which part of a recording was taken.
_MEANING = (
    "name",
    "identity",
    "codebook_size",
    "n_codebooks",
    "tokens_per_image",
    "sample_rate",
    "channels",
    "frame_rate",
    "serialization",
    "row_codebooks",
)
_UPSTREAM_KEYS = {"name_or_path": "name", "target_sample_rate": "sample_rate"}  # an upstream run's key -> ours


@dataclass(frozen=True, eq=False)
class TokenSpace:
    """The layout of the vocabulary. `build_token_space` and `load` make one, and check it.

    Args:
        version: of the file format: VERSION, or that of an upstream run.
        base_text_model: name or path of the base.
        text_vocab_size: number of text ids, 0..text_vocab_size - 1.
        special_tokens: "<|role|>" -> id.
        ranges: segment name -> its ids, in order of ids.
        image_tokenizer, audio_codec: description of the codec, at least its sizes; None: no such modality.
        vocab_size_total: number of all ids.
        text_tokenizer: {"identity": SHA-256 of the tokenizer}; None in an upstream file.
        read_from: content of an upstream file as it was read; empty for ours.
    """

    version: str
    base_text_model: str
    text_vocab_size: int
    special_tokens: Mapping[str, int]
    ranges: Mapping[str, Range]
    image_tokenizer: Mapping | None
    audio_codec: Mapping | None
    vocab_size_total: int
    text_tokenizer: Mapping | None = None
    read_from: Mapping = field(default_factory=dict, repr=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of what makes ids mean the same thing."""
        return digest_json(
            {
                "text": _text_meaning(self.base_text_model, self.text_tokenizer),
                "text_vocab_size": self.text_vocab_size,
                "special_tokens": dict(self.special_tokens),
                "ranges": {name: [r.start, r.end] for name, r in self.ranges.items()},
                "image": _meaning(self.image_tokenizer),
                "audio": _meaning(self.audio_codec),
                "vocab_size_total": self.vocab_size_total,
            }
        )

    @property
    def new_start(self) -> int:
        """First id that the base model has no row for."""
        return self.text_vocab_size

    @property
    def n_new(self) -> int:
        """Number of ids that the base model has no row for."""
        return self.vocab_size_total - self.text_vocab_size

    @cached_property
    def n_codebooks(self) -> int:
        return len(self.audio_ranges)

    @cached_property
    def audio_ranges(self) -> tuple[Range, ...]:
        """AUDIO_CB0.. in order; empty when the space has no audio."""
        names = (f"AUDIO_CB{k}" for k in range(len(self.ranges)))
        return tuple(self.ranges[n] for n in names if n in self.ranges)

    @cached_property
    def stream(self) -> Stream:
        """The order in which the codes of a sound become ids."""
        return stream_of(self.audio_codec, self.n_codebooks)

    @cached_property
    def audio_rows(self) -> tuple[Range, ...]:
        """The segment of each row of codes; several rows may share a codebook, and so a segment."""
        return tuple(self.audio_ranges[book] for book in self.stream.rows)

    def payload_ranges(self, modality: str, n: int) -> tuple[np.ndarray, np.ndarray]:
        """(first id, one past the last id), int64 [n] each, of the segment at each position of a payload of `n` ids.

        Raises:
            UserError: `n` audio ids are not whole frames, and the order does not allow a partial one.
        """
        segments = self.segments(modality)
        starts, stops = (np.array([getattr(one, key) for one in segments], np.int64) for key in ("start", "stop"))
        which = self.stream.codebooks_at(n) if modality == "audio" else np.zeros(n, np.int64)
        return starts[which], stops[which]

    @property
    def image_range(self) -> Range | None:
        return self.ranges.get("IMAGE")

    def segments(self, modality: str) -> tuple[Range, ...]:
        """The ranges of a modality's ids ("audio", "image"), one per codebook; empty: the space has none."""
        if modality == "audio":
            return self.audio_ranges
        return () if self.image_range is None else (self.image_range,)

    def special(self, role: str) -> int:
        """Id of the special token of a role, e.g. "aud_start"."""
        return self.special_tokens[f"<|{role}|>"]

    # Maps between codes and ids. Each checks all of its input and raises a UserError that names the first wrong value.

    def image_to_global(self, codes) -> np.ndarray:
        """Image codes int [N] -> ids int32 [N]."""
        r = self._image()
        codes = _ints(codes, "image codes")
        _refuse(codes, (codes < 0) | (codes >= r.size), "image code", f"0..{r.size - 1}")
        return (codes + r.start).astype(np.int32)

    def image_from_global(self, ids) -> np.ndarray:
        """Ids int [N] -> image codes int32 [N]."""
        r = self._image()
        ids = _ints(ids, "image ids")
        _refuse(ids, (ids < r.start) | (ids > r.end), "image id", f"{r.start}..{r.end} (IMAGE)")
        return (ids - r.start).astype(np.int32)

    def audio_to_global(self, codes) -> np.ndarray:
        """Audio codes int [K, T], K rows of T frames -> ids int32 [T * K] in the order of `stream`."""
        starts, sizes = self._audio()
        codes = _ints(codes, "audio codes")
        if codes.ndim != 2 or codes.shape[0] != len(starts):
            raise UserError(
                "audio codes have the wrong shape",
                found=f"{list(codes.shape)}",
                expected=f"[{len(starts)}, frames]: the rows of the token space's codec",
            )
        bad = (codes < 0) | (codes >= sizes[:, None])
        if bad.any():
            k, t = (int(i) for i in np.argwhere(bad)[0])
            raise UserError(
                f"audio code outside its codebook: {int(codes[k, t])} in codebook {self.stream.rows[k]}, frame {t}",
                found=str(int(codes[k, t])),
                expected=f"0..{int(sizes[k]) - 1} ({self.audio_rows[k].name})",
                fix="the codec that made it isn't the one of this token space",
            )
        if self.stream.order == "frame":
            return np.ascontiguousarray((codes + starts[:, None]).T).reshape(-1).astype(np.int32)
        return self.stream.flat(codes + starts[:, None]).astype(np.int32)

    def audio_from_global(self, ids) -> np.ndarray:
        """Ids int [T * K] in the order of `stream` -> audio codes int32 [K, T]."""
        starts, sizes = self._audio()
        ids = _ints(ids, "audio ids")
        n = len(starts)
        if ids.ndim != 1 or len(ids) % n:
            raise UserError(
                "audio ids don't fill whole frames",
                found=f"shape {list(ids.shape)}",
                expected=f"[frames * {n}], {n} ids per frame",
            )
        codes = self.stream.unflat(ids) - starts[:, None]
        bad = self.stream.flat((codes < 0) | (codes >= sizes[:, None]))
        if bad.any():
            at = int(np.argmax(bad))
            k, t = divmod(int(self.stream.places(len(ids) // n)[at]), len(ids) // n)
            lo, book = int(starts[k]), self.audio_rows[k]
            raise UserError(
                f"audio id outside its codebook: {int(ids[at])} at position {at} "
                f"(frame {t}, codebook {self.stream.rows[k]})",
                found=f"{int(ids[at])} ({self.segment(int(ids[at]))})",
                expected=f"{lo}..{lo + int(sizes[k]) - 1} ({book.name})",
            )
        return codes.astype(np.int32)

    def check_text(self, ids) -> np.ndarray:
        """Text ids int [N] -> int32 [N]. Raises UserError for an id outside TEXT."""
        ids = _ints(ids, "text ids")
        _refuse(ids, (ids < 0) | (ids >= self.text_vocab_size), "text id", f"0..{self.text_vocab_size - 1} (TEXT)")
        return ids.astype(np.int32)

    def segment(self, token: int) -> str:
        """Name of the segment of an id; "none" for an id outside the vocabulary."""
        return next((r.name for r in self.ranges.values() if r.start <= token <= r.end), "none")

    def _image(self) -> Range:
        if self.image_range is None:
            raise UserError("this token space has no image segment", expected="a range IMAGE")
        return self.image_range

    def _audio(self) -> tuple[np.ndarray, np.ndarray]:
        """First id and number of ids of each row's segment."""
        if not self.audio_ranges:
            raise UserError("this token space has no audio segment", expected="ranges AUDIO_CB0, AUDIO_CB1 ..")
        each = (
            np.array([r.start for r in self.audio_ranges], np.int64),
            np.array([r.size for r in self.audio_ranges], np.int64),
        )
        rows = list(self.stream.rows)
        return each[0][rows], each[1][rows]

    def to_json(self) -> dict:
        """The content of token_space.json; of a space read from an upstream file, that file's content."""
        if self.read_from:
            return dict(self.read_from)
        return {
            "version": self.version,
            "base_text_model": self.base_text_model,
            "text_tokenizer": None if self.text_tokenizer is None else dict(self.text_tokenizer),
            "text_vocab_size": self.text_vocab_size,
            "special_tokens": dict(self.special_tokens),
            "ranges": {n: {"start": r.start, "end": r.end, "size": r.size} for n, r in self.ranges.items()},
            "image_tokenizer": None if self.image_tokenizer is None else dict(self.image_tokenizer),
            "audio_codec": None if self.audio_codec is None else dict(self.audio_codec),
            "vocab_size_total": self.vocab_size_total,
        }

    def save(self, folder: Path) -> None:
        """Write token_space.json and token_space.sha256 (hex and a newline) into `folder`."""
        content = self.to_json()
        write_json(Path(folder) / FILE_NAME, content)
        atomic_write(Path(folder) / SHA_NAME, f"{stored_sha(content)}\n".encode())


def build_token_space(
    *,
    base_text_model: str,
    text_vocab_size: int,
    n_special: int,
    image_tokenizer: Mapping | None,
    audio_codec: Mapping | None,
    text_tokenizer: Mapping | None = None,
) -> TokenSpace:
    """Lay the segments out one after another.

    Args:
        n_special: slots for special tokens, named or not.
        image_tokenizer: description of the codec, with codebook_size; None: no image ids.
        audio_codec: description of the codec, with n_codebooks and codebook_size; serialization and row_codebooks
            give the order of its ids (stream.py). None: no audio ids.
        text_vocab_size, base_text_model, text_tokenizer: as of `TokenSpace`.

    Raises:
        UserError: fewer slots than named special tokens, or a layout that `check_layout` refuses.
    """
    if n_special < len(SPECIALS):
        raise UserError(
            "token_space.n_special is too small",
            found=str(n_special),
            expected=f"at least {len(SPECIALS)}, the named special tokens",
        )
    ranges: dict[str, Range] = {}
    start = 0

    def add(name: str, size: int) -> None:
        nonlocal start
        ranges[name] = Range(name, start, start + size - 1)
        start += size

    add("TEXT", text_vocab_size)
    add("SPECIAL", n_special)
    if image_tokenizer is not None:
        add("IMAGE", int(image_tokenizer["codebook_size"]))
    if audio_codec is not None:
        for k in range(int(audio_codec["n_codebooks"])):
            add(f"AUDIO_CB{k}", int(audio_codec["codebook_size"]))
    space = TokenSpace(
        version=VERSION,
        base_text_model=base_text_model,
        text_vocab_size=text_vocab_size,
        special_tokens={f"<|{role}|>": text_vocab_size + i for i, role in enumerate(SPECIALS)},
        ranges=ranges,
        image_tokenizer=image_tokenizer,
        audio_codec=audio_codec,
        vocab_size_total=start,
        text_tokenizer=text_tokenizer,
    )
    check_layout(space, "token space")
    return space


def load(path: Path) -> TokenSpace:
    """Read token_space.json, ours or of an upstream run.

    Args:
        path: the file, or its folder.

    Raises:
        UserError: missing, not a token space, a wrong layout, or a token_space.sha256 beside it that is not the digest
            by the rule of the file's own format.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    content = read_json(path)
    space = from_json(content, where=path.name)
    sidecar = path.with_name(SHA_NAME)
    if sidecar.is_file():
        written = sidecar.read_text().strip()
        computed = stored_sha(content)
        if written != computed:
            raise UserError(
                f"{SHA_NAME} doesn't belong to this {path.name}",
                where=str(path),
                found=f"{written} in {SHA_NAME}",
                expected=f"{computed}, computed from the file",
                fix="restore the pair from where it was made; an edited token space is another token space",
            )
    return space


def from_json(content: Mapping, where: str = FILE_NAME) -> TokenSpace:
    """A checked TokenSpace from the content of a token_space.json. Raises UserError, which names `where`."""
    needed = ("version", "base_text_model", "text_vocab_size", "special_tokens", "ranges", "vocab_size_total")
    missing = [key for key in needed if key not in content]
    if missing:
        raise UserError(
            f"{where} isn't a token space: keys missing",
            where=where,
            found=", ".join(sorted(content)) or "nothing",
            expected=", ".join(missing),
        )
    ours = content["version"] == VERSION
    space = TokenSpace(
        version=content["version"],
        base_text_model=content["base_text_model"],
        text_vocab_size=content["text_vocab_size"],
        special_tokens=dict(content["special_tokens"]),
        ranges={
            n: Range(n, r["start"], r["end"])
            for n, r in sorted(content["ranges"].items(), key=lambda item: item[1]["start"])
        },
        image_tokenizer=content.get("image_tokenizer"),
        audio_codec=content.get("audio_codec"),
        vocab_size_total=content["vocab_size_total"],
        text_tokenizer=content.get("text_tokenizer"),
        read_from={} if ours else dict(content),
    )
    for name, r in content["ranges"].items():
        if r.get("size", space.ranges[name].size) != space.ranges[name].size:
            raise UserError(
                f"range {name} has the wrong size",
                where=where,
                found=str(r["size"]),
                expected=f"{space.ranges[name].size} = end - start + 1 (end is included)",
            )
    check_layout(space, where)
    return space


def upstream_sha(content: Mapping) -> str:
    """The digest of the upstream format, hex SHA-256 of json.dumps(content, sort_keys=True): it covers the time too."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def stored_sha(content: Mapping) -> str:
    """The digest that token_space.sha256 must hold for this content: ours, or upstream's for its format."""
    return from_json(content).digest if content["version"] == VERSION else upstream_sha(content)


def _meaning(codec: Mapping | None) -> dict | None:
    """The part of a codec's description that decides what its codes mean."""
    if codec is None:
        return None
    renamed = {_UPSTREAM_KEYS.get(key, key): value for key, value in codec.items()}
    kept = {key: renamed[key] for key in _MEANING if key in renamed}
    if "name" in kept:
        kept["name"] = _without_place(str(kept["name"]))
    return kept


def _text_meaning(base: str, tokenizer: Mapping | None) -> dict:
    """The tokenizer's digest; in upstream files, which have none, the model's name."""
    return {"identity": tokenizer["identity"]} if tokenizer else {"name": _without_place(base)}


def _without_place(name: str) -> str:
    """A hub id as it is, and the last component of a path, so that a folder may move."""
    is_path = name.startswith(("/", "./", "../", "~")) or bool(re.match(r"[A-Za-z]:[\\/]", name))
    return re.split(r"[\\/]", name.rstrip("\\/"))[-1] if is_path else name


def _ints(values, what: str) -> np.ndarray:
    array = np.asarray(values)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise UserError(f"{what} are not integers", found=str(array.dtype), expected="an integer dtype")
    return array.astype(np.int64)


def _refuse(values: np.ndarray, bad: np.ndarray, what: str, expected: str) -> None:
    if values.ndim != 1:
        raise UserError(f"{what}s have the wrong shape", found=str(list(values.shape)), expected="one dimension")
    if bad.any():
        at = int(np.argmax(bad))
        raise UserError(
            f"{what} out of range: {int(values[at])} at position {at}",
            found=str(int(values[at])),
            expected=expected,
        )
