"""JSON Schema checks that name every error: file, path, what was found, what was expected, the nearest valid key."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError
from mmpt.store.jsonl import iter_jsonl

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"
SHOWN = 20  # errors printed of one failure; the rest is counted


class SchemaError(UserError):
    """One or more violations; ``lines`` holds one text a violation."""

    def __init__(self, where: object, lines: list[str]):
        self.lines = lines
        head = lines[0] if len(lines) == 1 else f"{len(lines)} schema errors:\n  " + "\n  ".join(lines[:SHOWN])
        more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        super().__init__(head + more, where=where)


@functools.lru_cache(maxsize=None)
def validator(name: str) -> Draft202012Validator:
    """The compiled schema ``schemas/<name>.schema.json``."""
    return Draft202012Validator(json.loads((SCHEMAS / f"{name}.schema.json").read_bytes()))


def validate(value: Any, name: str, *, where: object) -> None:
    """Check ``value`` against schema ``name``.

    Raises:
        SchemaError: with every violation, sorted by path.
    """
    if lines := list(violations(value, name)):
        raise SchemaError(where, lines)


def violations(value: Any, name: str, prefix: str = "") -> Iterator[str]:
    """One line a violation: path, found, expected, nearest key."""
    for error in sorted(validator(name).iter_errors(value), key=lambda one: [str(part) for part in one.absolute_path]):
        yield from _lines(error, prefix)


def validate_file(path: Path, name: str) -> None:
    """Check a ``.json`` file, or every line of a ``.jsonl`` file, against schema ``name``.

    Raises:
        SchemaError: with every violation.  UserError: missing or not JSON.
    """
    if path.suffix != ".jsonl":
        validate(read_json(path), name, where=path)
        return
    lines: list[str] = []
    check = validator(name)
    for number, row in enumerate(iter_jsonl(path), 1):
        if not check.is_valid(row):
            lines += violations(row, name, prefix=f"line {number} ")
    if lines:
        raise SchemaError(path, lines)


def _lines(error: ValidationError, prefix: str) -> Iterable[str]:
    place = prefix + (_path(error.absolute_path) or "top level")
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = set(error.schema.get("properties", {}))
        for key in sorted(set(error.instance) - known):
            yield f"{place}: unknown key {key!r}; {nearest(key, known)}"
    elif error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        yield f"{place}: missing {', '.join(map(repr, missing))}"
    elif error.validator == "type":
        wanted = error.validator_value
        yield f"{place}: found {_short(error.instance)}; expected {' or '.join([wanted] if isinstance(wanted, str) else wanted)}"
    elif error.validator == "enum":
        yield f"{place}: found {_short(error.instance)}; expected one of {', '.join(map(str, error.validator_value))}"
    elif error.validator in ("oneOf", "anyOf") and error.context:
        best = min(error.context, key=lambda one: (len(one.absolute_path) == len(error.absolute_path), -len(one.absolute_path)))
        yield from _lines(best, prefix)
    else:
        yield f"{place}: found {_short(error.instance)}; {error.message.split(' is not valid under')[0][-160:]}"


def nearest(key: str, known: Iterable[str]) -> str:
    """ "did you mean 'x'?", or the list of what is known."""
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"


def _path(parts: Iterable[Any]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
