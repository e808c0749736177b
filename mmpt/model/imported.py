"""An upstream run's checkpoints: trainable_rows.pt and a LoRA folder become an adapter of ours.

    checkpoint_<k>/trainable_rows.pt   row_start, row_end, embeddings [T, H], lm_head [T, H] or None
    checkpoint_<k>/token_space.json    what the rows were trained for
    lora_<k>/                          PEFT's adapter_config.json and adapter_model.safetensors (or .bin)

Files of torch are read with weights_only, so loading runs no code of theirs.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmpt.model.multimodal import MultimodalLM
from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError
from mmpt.store.tensors import load_tensors
from mmpt.tokens.space import FILE_NAME, TokenSpace, stored_sha, upstream_sha

ROWS = "trainable_rows.pt"
LORA_KEYS = {"r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
# A LoRA folder saved after the embedding was resized also holds both whole matrices.
WHOLE = ("embed_tokens.weight", "lm_head.weight", "embed_tokens.base_layer.weight")


def load_rows(model: MultimodalLM, path: Path) -> None:
    """Copy the rows of a trainable_rows.pt (or of the checkpoint folder it is in) into the model.

    Raises:
        UserError: missing, holding pickled objects, of other rows or another width, of another token space.
    """
    path = path / ROWS if path.is_dir() else path
    check_token_space(path.parent, model.space)
    stored = load_torch(path)
    space, hidden = model.space, model.embedding.rows.shape[1]
    asked = {"row_start": space.new_start, "row_end": space.vocab_size_total}
    for key, expected in asked.items():
        if not isinstance(stored, Mapping) or stored.get(key) != expected:
            found = stored.get(key) if isinstance(stored, Mapping) else type(stored).__name__
            raise UserError("rows of another token space", where=f"{path}: {key}", found=found, expected=expected)
    if model.tied == (stored.get("lm_head") is not None):
        raise UserError(
            "tied and untied heads do not mix",
            where=f"{path}: lm_head",
            found="rows of a head" if model.tied else "no rows of a head",
            expected="the base model that the rows were trained on",
        )
    targets = {"embeddings": model.embedding.rows, "lm_head": model.head_rows}
    for key, target in targets.items():
        if target is None:
            continue
        rows = stored.get(key)
        if not isinstance(rows, Tensor) or list(rows.shape) != [space.n_new, hidden]:
            raise UserError(
                "rows of another shape",
                where=f"{path}: {key}",
                found=list(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__,
                expected=[space.n_new, hidden],
            )
        if not torch.isfinite(rows.float()).all():
            raise UserError("rows with NaN or Inf", where=f"{path}: {key}")
        with torch.no_grad():
            target.copy_(rows.float())


def check_token_space(checkpoint: Path, space: TokenSpace) -> None:
    """Refuse a checkpoint without a token space, or of another one than the run's."""
    path = checkpoint / FILE_NAME
    if not path.is_file():
        raise UserError(
            "the checkpoint does not say which token space it was trained for",
            where=checkpoint,
            found=f"no {FILE_NAME}",
            expected=f"{FILE_NAME} beside {ROWS}, as the run wrote it",
        )
    found, expected = stored_sha(read_json(path)), upstream_sha(space.to_json())
    if found != expected:
        raise UserError(
            "the checkpoint was trained for another token space",
            where=path,
            found=found,
            expected=f"{expected}, of inputs.token_space",
        )


def load_lora(model: MultimodalLM, folder: Path) -> list[str]:
    """Copy a PEFT folder's LoRA matrices into the model; returns the keys that were passed over.

    Raises:
        UserError: another LoRA configuration than the profile's, a matrix missing or of another shape.
    """
    config = read_json(folder / "adapter_config.json")
    found = {ours: config.get(theirs) for ours, theirs in LORA_KEYS.items()}
    found["target_modules"] = sorted(config.get("target_modules") or [])
    wanted = {key: model.lora.get(key, 0.0) for key in LORA_KEYS}
    wanted["target_modules"] = sorted(model.lora["target_modules"])
    for key, expected in wanted.items():
        if found[key] != expected:
            raise UserError(
                "the adapter has another LoRA configuration than the profile",
                where=f"{folder}/adapter_config.json: {key}",
                found=found[key],
                expected=f"{expected}, of profile key lora",
            )
    stored = _adapter_tensors(folder)
    own = {name: one for name, one in model.adapter_parameters().items() if ".lora_" in name}
    for name, parameter in own.items():
        if name not in stored or stored[name].shape != parameter.shape:
            raise UserError(
                "a LoRA matrix is missing or of another shape",
                where=f"{folder}: {name}",
                found=list(stored[name].shape) if name in stored else "nothing",
                expected=list(parameter.shape),
            )
        with torch.no_grad():
            parameter.copy_(stored[name].float())
    over = sorted(set(stored) - set(own))
    if strange := [name for name in over if not name.endswith(WHOLE)]:
        raise UserError(
            "the adapter trains more than LoRA",
            where=folder,
            found=strange[0],
            expected="lora_A and lora_B only",
        )
    return over


def _adapter_tensors(folder: Path) -> dict[str, Tensor]:
    if (folder / "adapter_model.safetensors").is_file():
        return load_tensors(folder / "adapter_model.safetensors", "torch")
    if (folder / "adapter_model.bin").is_file():
        return load_torch(folder / "adapter_model.bin")
    raise UserError("no adapter there", where=folder, expected="adapter_model.safetensors or adapter_model.bin")


def load_torch(path: Path) -> Any:
    """A file of torch.save, tensors and plain values only.

    Raises:
        UserError: missing, damaged, or holding pickled objects, which are not loaded.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError("no such file", where=path) from None
    except pickle.UnpicklingError as error:
        raise UserError(
            "a file with pickled objects, or damaged",
            where=path,
            found=str(error).strip().splitlines()[0][:120],
            expected="tensors and plain values: loading must not run code",
            fix="save it again with torch.save of tensors only",
        ) from None
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError("not a file of torch", where=path, found=str(error).splitlines()[0][:120]) from None
