"""JSON with one spelling: the same value gives the same bytes and the same digest, on every machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mmpt.store.atomic import atomic_write
from mmpt.store.errors import UserError


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8, no NaN or Infinity: the bytes that digests are taken of.

    Raises:
        ValueError: for NaN or an infinity; TypeError: for what JSON cannot say.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


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
        place = f"line {error.lineno} column {error.colno}: {error.msg}" if hasattr(error, "lineno") else str(error)
        raise UserError("not JSON", where=path, found=place) from None


def write_json(path: Path | str, value: Any, *, durable: bool = True) -> None:
    """Write ``value`` atomically in its readable spelling."""
    atomic_write(path, pretty_json(value), durable=durable)
