"""The rules of a token space: segments end to end, special tokens in their place, codecs of the right size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmpt.store.errors import UserError
from mmpt.tokens.names import SPECIALS, Range
from mmpt.tokens.stream import stream_of

if TYPE_CHECKING:
    from mmpt.tokens.space import TokenSpace


def check_layout(space: TokenSpace, where: str) -> None:
    """Segments lie end to end from 0, in the known order; specials sit in SPECIAL, all of them, no id twice."""
    known = ["TEXT", "SPECIAL", "IMAGE", *(f"AUDIO_CB{k}" for k in range(len(space.ranges)))]
    names = list(space.ranges)
    if names != [n for n in known if n in space.ranges] or names[:2] != ["TEXT", "SPECIAL"]:
        raise UserError(
            "segments are missing, unknown or out of order",
            where=where,
            found=" ".join(names),
            expected="TEXT SPECIAL [IMAGE] [AUDIO_CB0 AUDIO_CB1 ..]",
        )
    if space.n_codebooks != sum(n.startswith("AUDIO_CB") for n in names):
        raise UserError("audio codebooks are not numbered from 0", where=where, found=" ".join(names))
    at = 0
    for r in space.ranges.values():
        if r.start != at or r.size < 1:
            raise UserError(
                f"range {r.name} isn't contiguous",
                where=where,
                found=f"{r.start}..{r.end}",
                expected=f"start at {at}",
            )
        at = r.stop
    totals = {
        "vocab_size_total": (space.vocab_size_total, at),
        "text_vocab_size": (space.text_vocab_size, space.ranges["TEXT"].size),
    }
    for key, (found, expected) in totals.items():
        if found != expected:
            raise UserError(f"{key} disagrees with the ranges", where=where, found=str(found), expected=str(expected))
    _check_specials(space, where)
    _check_codec(space.image_tokenizer, [space.image_range], "image_tokenizer", where)
    _check_codec(space.audio_codec, list(space.audio_ranges), "audio_codec", where)
    if space.audio_ranges:
        stream_of(space.audio_codec, space.n_codebooks, f"{where}: audio_codec")


def _check_specials(space: TokenSpace, where: str) -> None:
    special = space.ranges["SPECIAL"]
    missing = [f"<|{role}|>" for role in SPECIALS if f"<|{role}|>" not in space.special_tokens]
    if missing:
        raise UserError(
            "special tokens are missing",
            where=where,
            found=", ".join(space.special_tokens),
            expected=", ".join(missing),
        )
    seen: dict[int, str] = {}
    for name, token in space.special_tokens.items():
        if not special.start <= token <= special.end:
            raise UserError(
                f"special token {name} lies outside SPECIAL",
                where=where,
                found=str(token),
                expected=f"{special.start}..{special.end}",
            )
        if token in seen:
            raise UserError(f"special tokens {seen[token]} and {name} share an id", where=where, found=str(token))
        seen[token] = name


def _check_codec(codec: Mapping | None, ranges: list[Range | None], key: str, where: str) -> None:
    """A codec's own sizes must be those of its segments."""
    if not codec or not ranges or ranges[0] is None:
        return
    sizes = {r.size for r in ranges if r is not None}
    if "codebook_size" in codec and sizes != {codec["codebook_size"]}:
        raise UserError(
            f"{key}.codebook_size disagrees with the ranges",
            where=where,
            found=str(codec["codebook_size"]),
            expected=" or ".join(str(s) for s in sorted(sizes)),
        )
    if "n_codebooks" in codec and codec["n_codebooks"] != len(ranges):
        raise UserError(
            f"{key}.n_codebooks disagrees with the ranges",
            where=where,
            found=str(codec["n_codebooks"]),
            expected=str(len(ranges)),
        )
