"""safetensors files with equal bytes for equal content: one metadata key, written atomically.

safetensors writes its metadata from a hash map, so the order of several keys varies by process; one key whose value is
canonical JSON does not.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmpt.store.atomic import atomic_write
from mmpt.store.canonical import canonical_json
from mmpt.store.errors import UserError

KEY = "mmpt"


def save_tensors(path: Path | str, tensors: Mapping[str, Any], meta: dict[str, Any], *, durable: bool = True) -> None:
    """Replace ``path`` by numpy arrays or torch tensors (not both in a file), with ``meta`` as canonical JSON."""
    ordered = {name: tensors[name] for name in sorted(tensors)}
    header = {KEY: canonical_json(meta).decode()}
    if ordered and type(next(iter(ordered.values()))).__module__.startswith("torch"):
        import safetensors.torch

        ordered = {name: tensor.detach().cpu().contiguous() for name, tensor in ordered.items()}
        data = safetensors.torch.save(ordered, metadata=header)
    else:
        import numpy
        import safetensors.numpy

        ordered = {name: numpy.ascontiguousarray(array) for name, array in ordered.items()}
        data = safetensors.numpy.save(ordered, metadata=header)
    atomic_write(path, data, durable=durable)


def load_tensors(path: Path | str, framework: str = "numpy") -> dict[str, Any]:
    """All tensors of a file, as "numpy" or "torch" ("pt").

    Raises:
        UserError: missing or not safetensors.
    """
    from safetensors import SafetensorError

    try:
        return _loader(framework)(str(path))
    except FileNotFoundError:
        raise UserError("no such file", where=path) from None
    except SafetensorError as error:
        raise UserError("not a safetensors file", where=path, found=error) from None


def _loader(framework: str) -> Callable[[str], dict[str, Any]]:
    if framework == "numpy":
        import safetensors.numpy

        return safetensors.numpy.load_file
    import safetensors.torch

    return safetensors.torch.load_file


def map_tensors(path: Path | str) -> Any:
    """A handle on a file that is memory-mapped: ``get_tensor(name)`` copies one whole, ``get_slice(name)[a:b]`` a part.

    Raises:
        UserError: missing or not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(str(path), framework="numpy")
    except FileNotFoundError:
        raise UserError("no such file", where=path) from None
    except SafetensorError as error:
        raise UserError("not a safetensors file", where=path, found=error) from None


def read_meta(path: Path | str) -> dict[str, Any]:
    """The metadata that ``save_tensors`` wrote, without reading the tensors.

    Raises:
        UserError: missing, not safetensors, or without our key.
    """
    try:
        with open(path, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        return json.loads(header["__metadata__"][KEY])
    except FileNotFoundError:
        raise UserError("no such file", where=path) from None
    except (struct.error, ValueError, KeyError, OverflowError, MemoryError) as error:
        raise UserError(
            "no readable metadata", where=path, found=repr(error), expected=f"safetensors with key {KEY!r}"
        ) from None
