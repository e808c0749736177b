"""Reads the attributes that a caption of the generated corpus states, from free text.

It knows the values of the attributes (`generated.py`) and the words around them, and nothing of models, media or
wordings. A generated caption is judged by what it states; the truth is the record's attributes, not another caption.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from .generated import ATTRIBUTES

SUBJECT = {"image": "shape", "audio": "kind"}
"""The attribute whose values name the thing that a caption is about."""
GENERAL_SUBJECTS = {"image": {"shape"}, "audio": {"sound", "sounds"}}
"""Nouns in place of a value: "a red shape"."""

FRAME = {
    "image": {"at", "background", "ground", "here", "picture"},
    "audio": {"at", "come", "comes", "hear", "now", "pitch", "some", "voice", "we"},
}
"""Words of captions that state no value. A word that is neither here nor a value is foreign to captions."""
FUNCTION_WORDS = {
    "a",
    "an",
    "and",
    "are",
    "but",
    "has",
    "in",
    "is",
    "it",
    "its",
    "of",
    "on",
    "or",
    "that",
    "the",
    "there",
    "this",
    "which",
    "with",
}
NEGATIONS = {
    "aren't",
    "cannot",
    "doesn't",
    "hardly",
    "isn't",
    "neither",
    "never",
    "no",
    "none",
    "nor",
    "not",
    "nothing",
    "without",
}
CLAUSE_ENDS = {".", ",", ";", ":", "!", "?", "-", "and", "but"}
"""Where the range of a negation ends."""

_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[.,;:!?-]")


@dataclass(frozen=True)
class CaptionReading:
    """What a caption says.

    Args:
        fault: why the text is no caption of this modality; empty for a caption. Then nothing is stated.
        stated: attribute -> its value, where the caption asserts exactly one.
        unclear: attributes with several values, or with a value that is only denied ("not red").
    """

    fault: str
    stated: Mapping[str, str]
    unclear: frozenset[str]

    def hits(self, attributes: Mapping[str, str]) -> dict[str, bool]:
        """Attribute -> whether the caption is right about it, given the true `attributes` of the medium.

        A text that is no caption is wrong about every attribute; an unclear attribute is wrong; an attribute that the
        caption leaves out is not in the result.
        """
        if self.fault:
            return dict.fromkeys(attributes, False)
        return {
            name: self.stated.get(name) == value
            for name, value in attributes.items()
            if name in self.stated or name in self.unclear
        }


def read_caption(modality: str, text: str, *, ended: bool = True) -> CaptionReading:
    """What `text` states about a medium of `modality` ("image" or "audio").

    Args:
        ended: whether the model ended the text by itself; a text that was cut off is no caption.
    """
    tokens = _TOKEN.findall(text.lower().replace("\u2019", "'"))
    if fault := _fault(modality, tokens, ended):
        return CaptionReading(fault, {}, frozenset())
    asserted: dict[str, set[str]] = {}
    denied: dict[str, set[str]] = {}
    negated = False
    for token in tokens:
        negated = token in NEGATIONS or (negated and token not in CLAUSE_ENDS)
        if token in _values(modality):
            name, value = _values(modality)[token]
            (denied if negated else asserted).setdefault(name, set()).add(value)
    stated = {
        name: next(iter(values))
        for name, values in asserted.items()
        if len(values) == 1 and not values & denied.get(name, set())
    }
    return CaptionReading("", stated, frozenset({*asserted, *denied} - set(stated)))


def _fault(modality: str, tokens: list[str], ended: bool) -> str:
    """Why the tokens are no caption, or an empty string."""
    words = [token for token in tokens if token[0].isalnum()]
    if not words:
        return "empty"
    if not ended:
        return "without an end"
    values = _values(modality)
    known = FRAME[modality] | GENERAL_SUBJECTS[modality] | FUNCTION_WORDS | NEGATIONS | values.keys()
    foreign = next((word for word in words if word not in known), None)
    if foreign is not None:
        return f"the word {foreign!r} is in no caption"
    subject = SUBJECT[modality]
    if not any(word in GENERAL_SUBJECTS[modality] or values.get(word, ("",))[0] == subject for word in words):
        return f"names no {subject}"
    return ""


@cache
def _values(modality: str) -> dict[str, tuple[str, str]]:
    """Word -> (attribute, value), plurals of the kinds of sound among them."""
    words: dict[str, tuple[str, str]] = {}
    for name, values in ATTRIBUTES[modality].items():
        for value in values:
            if value in words:
                raise ValueError(
                    f"{value!r} is a value of {words[value][0]} and of {name}: a caption with it is unclear"
                )
            words[value] = (name, value)
            if name == "kind":
                words[f"{value}es" if value.endswith(("s", "z")) else f"{value}s"] = (name, value)
    return words
