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
    """Sorted keys, no spaces, UTF-8, no NaN or Infinity: the bytes that digests are taken of.

    Raises:
        ValueError: for NaN or an infinity; TypeError: for what JSON cannot say.
    """
    return _ENCODER.encode(value).encode()


def digest_json(value: Any) -> str:
    """Hex SHA-256 of ``canonical_json(value)``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def pretty_json(value: Any) -> bytes:
    """The same value for people: sorted keys, indented by one, a final newline."""
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
    """Write ``value`` atomically in its readable spelling."""
    atomic_write(path, pretty_json(value), durable=durable)


REMADE = "doit makes it again"


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """``value`` with a digest of itself, under the key "digest"."""
    return {**value, "digest": {"sha256": digest_json(value)}}


def write_sealed(path: Path | str, value: dict[str, Any]) -> None:
    """Write ``value`` atomically so that ``read_sealed`` sees every byte that is changed later."""
    write_json(path, seal(value))


def read_sealed(path: Path | str) -> dict[str, Any]:
    """What ``write_sealed`` was given: ``read_sealed`` after ``write_sealed(path, value)`` gives ``value``.

    Each byte counts: a file that says the same in another spelling is refused too. This finds accidents and edits by
    hand; an edit that also computes the digest again is not found.

    Raises:
        UserError: missing, not JSON, or without a digest.  Edited: its digest does not hold.
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
