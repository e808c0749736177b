"""JSON Schema checks that name every error: file, path, what was found, what was expected, the nearest valid key.

Two validators read the same schema files. jsonschema-rs, compiled, accepts a valid record in a microsecond. What it
does not accept goes to jsonschema, which takes a hundred times as long and words the message. So every refusal comes
from jsonschema, and tests/store/test_compiled.py checks that the compiled one accepts nothing that jsonschema refuses.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError
from mmpt.store.jsonl import iter_jsonl
from mmpt.store.resources import shared

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError
    from jsonschema_rs import Draft202012Validator as Compiled

SCHEMAS = shared("schemas")
SHOWN = 20  # errors printed of one failure; the rest is counted
MOST = 1000  # errors looked for in a .jsonl file: wording those of a million bad lines would take minutes


class SchemaError(UserError):
    """One or more violations of a schema.

    Args:
        lines: one per violation.
        all_read: whether the whole file was read; if not, there may be more.
    """

    def __init__(self, where: object, lines: list[str], *, all_read: bool = True):
        self.lines, least = lines, "" if all_read else "at least "
        head = lines[0] if len(lines) == 1 else f"{least}{len(lines)} schema errors:\n  " + "\n  ".join(lines[:SHOWN])
        more = f"\n  and {least}{len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        super().__init__(head + more, where=where)


@functools.cache
def schema(name: str) -> Any:
    """``schemas/<name>.schema.json``, parsed."""
    return json.loads((SCHEMAS / f"{name}.schema.json").read_bytes())


@functools.cache
def validator(name: str) -> Draft202012Validator:
    """The schema as jsonschema reads it: it has the last word, and words the message."""
    from jsonschema import Draft202012Validator  # 40 ms to load, and only for what is not fine

    return Draft202012Validator(schema(name))


@functools.cache
def compiled(name: str) -> Compiled:
    """The schema as jsonschema-rs compiles it: a value that it accepts is valid, others are checked by jsonschema."""
    from jsonschema_rs import Draft202012Validator

    return Draft202012Validator(schema(name))


def accepted(value: Any, name: str) -> bool:
    """Whether the compiled schema ``name`` accepts ``value``; if not, ``violations`` decides."""
    try:
        return compiled(name).is_valid(value)
    except ValueError:  # a value that it cannot convert from Python, such as half a surrogate pair
        return False


def validate(value: Any, name: str, *, where: object) -> None:
    """Check ``value`` against schema ``name``.

    Raises:
        SchemaError: with every violation, sorted by path.
    """
    if not accepted(value, name) and (lines := list(violations(value, name))):
        raise SchemaError(where, lines)


def violations(value: Any, name: str, prefix: str = "") -> Iterator[str]:
    """One line per violation: path, found, expected, nearest key. No line twice: missing keys are named together."""
    errors = sorted(validator(name).iter_errors(value), key=lambda one: [str(part) for part in one.absolute_path])
    yield from dict.fromkeys(line for error in errors for line in _lines(error, prefix))


def validate_file(path: Path, name: str) -> None:
    """Check a ``.json`` file, or every line of a ``.jsonl`` file, against schema ``name``.

    Raises:
        SchemaError: every violation; of a .jsonl file those of its first bad lines, about ``MOST``.
        UserError: the file is missing or not JSON.
    """
    if path.suffix != ".jsonl":
        validate(read_json(path), name, where=path)
        return
    lines: list[str] = []
    for number, row in enumerate(iter_jsonl(path), 1):
        if not accepted(row, name):
            lines += violations(row, name, prefix=f"line {number} ")
            if len(lines) >= MOST:
                raise SchemaError(path, lines, all_read=False)
    if lines:
        raise SchemaError(path, lines)


def _lines(error: ValidationError, prefix: str) -> Iterable[str]:
    place = prefix + (_path(error.absolute_path) or "top level")
    schema: Any = error.schema
    instance: Any = error.instance
    expected: Any = error.validator_value
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        keys = set(schema.get("properties", {}))
        for key in sorted(set(error.instance) - keys):
            yield f"{place}: unknown key {key!r}; {nearest(key, keys)}"
    elif error.validator == "required":
        missing = [key for key in expected if key not in instance]
        yield f"{place}: missing {', '.join(map(repr, missing))}"
    elif error.validator == "type":
        kinds = expected if isinstance(expected, str) else " or ".join(expected)
        inside = ", ".join(schema.get("properties", ()))
        form = f"{kinds} with {inside}" if kinds == "object" and inside else kinds
        yield f"{place}: found {_short(error.instance)}; expected {form}"
    elif error.validator == "enum":
        known = [str(one) for one in expected]
        close = difflib.get_close_matches(error.instance, known, n=1) if isinstance(error.instance, str) else []
        near = f"; did you mean {close[0]!r}?" if close else ""
        yield f"{place}: found {_short(error.instance)}; expected one of {', '.join(known)}{near}"
    elif error.validator == "minProperties" and schema.get("properties"):
        some = ", ".join(schema["properties"])
        yield f"{place}: found {_short(error.instance)}; expected at least {expected} of {some}"
    elif error.validator in ("oneOf", "anyOf") and error.context:
        best = min(
            error.context, key=lambda one: (len(one.absolute_path) == len(error.absolute_path), -len(one.absolute_path))
        )
        yield from _lines(best, prefix)
    else:
        yield f"{place}: found {_short(error.instance)}; {error.message.split(' is not valid under')[0][-160:]}"


def nearest(key: str, known: Iterable[str]) -> str:
    """ "did you mean 'x'?" of the known key that is most like ``key``; without one, the list of ``known``."""
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
