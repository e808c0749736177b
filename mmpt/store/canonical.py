"""JSON with one spelling: the same value gives the same bytes and the same digest, on every machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mmpt.store.atomic import atomic_write
from mmpt.store.errors import Edited, UserError

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """The JSON of ``value`` that digests are computed from: UTF-8, sorted keys, no spaces.

    Raises:
        ValueError: a NaN or an infinity.
        TypeError: a value that JSON has no form for.
    """
    return _ENCODER.encode(value).encode()


def digest_json(value: Any) -> str:
    """Hex SHA-256 of ``canonical_json(value)``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def pretty_json(value: Any) -> bytes:
    """The JSON of ``value`` for people: UTF-8, sorted keys, indented by one, a final newline. Raises as above."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: Path | str) -> Any:
    """Parse a JSON file.

    Raises:
        UserError: missing or not JSON, with file, line and column.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError("no such file", where=path) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        place = str(error)
        if isinstance(error, json.JSONDecodeError):
            place = f"line {error.lineno} column {error.colno}: {error.msg}"
        raise UserError("not JSON", where=path, found=place) from None


def write_json(path: Path | str, value: Any, *, durable: bool = True) -> None:
    """Replace ``path`` by ``pretty_json(value)`` in one step.

    Args:
        durable: wait until the bytes are on the disk.
    """
    atomic_write(path, pretty_json(value), durable=durable)


REMADE = "doit makes it again"


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """``value`` with a digest of itself, under the key "digest"."""
    return {**value, "digest": {"sha256": digest_json(value)}}


def write_sealed(path: Path | str, value: dict[str, Any]) -> None:
    """Write ``value`` with its digest, so that ``read_sealed`` refuses the file after any change of a byte."""
    write_json(path, seal(value))


def read_sealed(path: Path | str) -> dict[str, Any]:
    """The value that ``write_sealed`` wrote to ``path``.

    Every byte counts: the same value in another spelling is refused too. Accidents and edits by hand are found; an
    edit that also renews the digest is not.

    Raises:
        UserError: the file is missing, not JSON, or without a digest.
        Edited: the digest is not that of the content, or the spelling is not that of ``write_sealed``.
    """
    value = read_json(path)
    try:
        body = {key: one for key, one in value.items() if key != "digest"}
        whole = value["digest"] == {"sha256": digest_json(body)}
        spelled = pretty_json(value)
    except (KeyError, AttributeError, TypeError, ValueError):
        raise UserError("carries no digest of itself", where=path, fix=REMADE) from None
    if not whole or spelled != Path(path).read_bytes():
        raise Edited("was edited", where=path, expected="the bytes whose digest it carries", fix=REMADE)
    return body
