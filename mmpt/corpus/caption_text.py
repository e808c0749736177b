"""What a caption must be to be trained on: Unicode text with at least one visible letter, number or symbol."""

from __future__ import annotations

import html
import re
import unicodedata

# Written where there is no caption: what pandas reads as missing (its na_values), errors of a spreadsheet, JavaScript.
NONE = frozenset(
    "#N/A #NA -NaN -nan <NA> N/A NA NULL NaN None n/a nan null NaT undefined "
    "#REF! #VALUE! #NAME? #DIV/0! #NULL! #NUM! [deleted] [removed]".split()
)
MARKUP = re.compile(r"</?(?:b|br|div|em|font|hr|i|p|span|strong)\b[^<>]*>", re.IGNORECASE)
BLANK = "\u115f\u1160\u2800\u3164\uffa0"  # Hangul fillers and empty Braille, drawn as nothing


def one_line(caption: str) -> str:
    """The caption with every run of white space, line ends among them, as one space."""
    return " ".join(caption.split())


def has_word(caption: str) -> bool:
    """Whether a caption has visible content: letters, numbers, pictographs.

    None is in ".", U+200B and a BOM, in "nan", "N/A" and others that stand for no caption, and in markup alone.
    """
    shown = html.unescape(MARKUP.sub(" ", caption)).strip()
    kinds = (unicodedata.category(one) for one in shown if one not in BLANK)
    return shown not in NONE and any(kind[0] in "LN" or kind == "So" for kind in kinds)


def unwritten(caption: str) -> str:
    """The first control character, as "U+0092" (an apostrophe of cp1252 that was read as Latin-1); "" if none."""
    return next((f"U+{ord(one):04X}" for one in caption if unicodedata.category(one) == "Cc"), "")


def unencodable(text: str) -> str:
    """Where half a surrogate pair stands, which JSON can spell and no UTF-8 file can hold; "" if there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return text[max(0, error.start - 20) : error.end].encode(errors="backslashreplace").decode()
    return ""
