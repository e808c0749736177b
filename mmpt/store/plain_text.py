"""Text of captions, ids and file names for a terminal: control characters and direction marks are escaped."""

from __future__ import annotations

import unicodedata

# Embeddings, overrides and isolates: a caption that opens one turns the rest of the line around.
_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


def plain_line(text: str) -> str:
    """The text with control characters, line ends and direction marks as escapes (\\x1b, \\u202e); letters stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(one) if _steers(one) else one for one in text)


def _steers(one: str) -> bool:
    return one in _TURNS or unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp")


def _escaped(one: str) -> str:
    return one.encode("unicode_escape", "surrogatepass").decode("ascii")
