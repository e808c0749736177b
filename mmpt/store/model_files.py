"""Checks of a model folder's files without loading them: complete, not quantised, with which tensors.

Only names, sizes and headers are read, so that `doit plan` can refuse a pointer, half a download or a quantised model
before the first stage. safetensors' format: 8 bytes with the header's length, the header as JSON, then the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpt.store.errors import UserError

POINTER = b"version https://git-lfs.github.com/spec/"
MOST_HEADER = 100 * 2**20  # bytes that safetensors allows its header
TRAINER_STATE = "trainer_state.safetensors"  # of a checkpoint that a training can go on from
INDEX = "model.safetensors.index.json"
POSITIONS = ("max_position_embeddings", "n_positions")


def check_model_folder(folder: Path, where: str) -> dict[str, Any]:
    """Tensor name -> its entry in the safetensors headers ("dtype", "shape", "data_offsets") of a model folder.

    Args:
        where: the profile key that names the folder, for the message.

    Raises:
        UserError: a Git LFS pointer, a file that stops early, a shard of the index that is missing, a model that is
            stored quantised, a config.json or tokenizer.json that is no JSON.
    """
    config = read_config(folder, where)
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method", "a method") if isinstance(quantised, Mapping) else "a method"
        raise UserError(
            "the base is stored quantised",
            where=where,
            found=f"{method} in {folder.name}/config.json",
            expected="weights in float32, float16 or bfloat16",
            fix="use the model that it was made from, as Qwen3-8B for Qwen3-8B-AWQ",
        )
    tensors: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= read_header(file, where)
    _check_index(folder, where)
    if (file := folder / "tokenizer.json").is_file():
        check_json_file(file, where)
    return tensors


def positions(config: Mapping[str, Any]) -> int | None:
    """How many tokens of one sequence a model was made for, where its configuration says it."""
    found = (config.get(name) for name in POSITIONS)
    return next((one for one in found if isinstance(one, int) and one > 0), None)


def check_positions(config: Mapping[str, Any], max_seq_len: int) -> None:
    """Raise UserError for examples longer than the base was made for: rotary bases would go on in silence."""
    most = positions(config)
    if most and max_seq_len > most:
        raise UserError(
            "examples are longer than the base's context",
            where="examples.max_seq_len",
            found=max_seq_len,
            expected=f"at most {most}, the positions of {config.get('model_type', 'the base')}",
            fix="lower it (`doit fit --max-seq-len` says what that drops), or take another base",
        )


def read_header(file: Path, where: str) -> dict[str, Any]:
    """Tensor name -> entry of a safetensors file's header, `__metadata__` left out.

    Raises:
        UserError: a pointer, no header, or fewer or more bytes than the header says.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(len(POINTER))
        refuse_pointer(file, head, where)
        length = int.from_bytes(head[:8], "little")
        if not 2 <= length <= min(MOST_HEADER, size - 8):
            raise _damaged(file, where, f"a header of {length} bytes in a file of {size}")
        stream.seek(8)
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
            expected = 8 + length + int(end)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            raise _damaged(file, where, "a header that is none") from None
    if size != expected:
        raise _damaged(file, where, f"{size} bytes, where its header says {expected}")
    return header


def refuse_pointer(file: Path, head: bytes, where: str) -> None:
    """Raise UserError where a file's first bytes are those of a Git LFS pointer."""
    if head.startswith(POINTER):
        raise UserError(
            "a Git LFS pointer stands in the place of the file",
            where=f"{where}: {file.name}",
            found=f"{file.stat().st_size} bytes of text",
            fix=f"fetch it: git lfs pull, in {file.parent}",
        )


def check_json_file(file: Path, where: str) -> None:
    """Raise UserError for a pointer, or a large JSON file that stops before its last brace; it is not parsed."""
    with file.open("rb") as stream:
        refuse_pointer(file, stream.read(len(POINTER)), where)
        stream.seek(max(0, file.stat().st_size - 64))
        if not stream.read().rstrip().endswith(b"}"):
            raise _damaged(file, where, "no closing brace")


def read_config(folder: Path, where: str) -> dict[str, Any]:
    """config.json of a model folder; empty where there is none.

    Raises:
        UserError: a pointer, or not a JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        return {}
    data = file.read_bytes()
    refuse_pointer(file, data, where)
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        raise _damaged(file, where, "no JSON") from None
    if not isinstance(config, dict):
        raise _damaged(file, where, "no JSON object")
    return config


def _check_index(folder: Path, where: str) -> None:
    if not (file := folder / INDEX).is_file():
        return
    data = file.read_bytes()
    refuse_pointer(file, data, where)
    try:
        named = set(json.loads(data)["weight_map"].values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _damaged(file, where, "no weight_map") from None
    if missing := sorted(str(one) for one in named if not (folder / str(one)).is_file()):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            "files of the base are missing",
            where=where,
            found=", ".join(missing[:3]) + more,
            expected=f"every file that {INDEX} names",
            fix="fetch them",
        )


def _damaged(file: Path, where: str, found: str) -> UserError:
    return UserError(
        "the file is damaged, or half a download",
        where=f"{where}: {file.name}",
        found=found,
        fix=f"fetch it again into {file.parent}",
    )
