"""Adapters on disk, in PEFT's own format: new rows, LoRA and trained norms in one safetensors file.

PEFT reloads them without us, onto the base resized to the token space's vocabulary:

    base.resize_token_embeddings(vocab_size_total); PeftModel.from_pretrained(base, folder)

The file's metadata says which token space, LoRA and rows it was made for; loading refuses any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmpt.store.canonical import write_json
from mmpt.store.errors import UserError
from mmpt.store.tensors import load_tensors, read_meta, save_tensors

if TYPE_CHECKING:
    from mmpt.model.multimodal import MultimodalLM

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def save_adapter(model: MultimodalLM, folder: Path) -> None:
    """Write the adapter; equal parameters give equal bytes."""
    save_tensors(Path(folder) / WEIGHTS, model.adapter_parameters(), identity(model))
    write_json(Path(folder) / CONFIG, peft_config(model))


def load_adapter(model: MultimodalLM, folder: Path) -> None:
    """Copy an adapter's values into the model.

    Raises:
        UserError: missing; made for another token space, LoRA configuration, row shape or set of modules.
    """
    path = Path(folder) / WEIGHTS
    check_identity(model, read_meta(path), path)
    stored, wanted = load_tensors(path, "torch"), model.adapter_parameters()
    if differing := sorted(set(stored) ^ set(wanted)):
        side = "the file" if differing[0] in stored else "the model"
        raise UserError(
            "the adapter belongs to another model",
            where=path,
            found=f"{differing[0]} only in {side}",
            expected="the same tensors on both sides",
        )
    for key, parameter in wanted.items():
        if stored[key].shape != parameter.shape or stored[key].dtype != parameter.dtype:
            raise UserError(
                "a tensor of another shape or type",
                where=f"{path}: {key}",
                found=f"{list(stored[key].shape)} {stored[key].dtype}",
                expected=f"{list(parameter.shape)} {parameter.dtype}",
            )
    with torch.no_grad():
        for key, parameter in wanted.items():
            parameter.copy_(stored[key])


def identity(model: MultimodalLM) -> dict[str, Any]:
    """What an adapter must share with the model that loads it."""
    return {
        "token_space": model.space.digest,
        "lora": {**model.lora, "target_modules": sorted(model.lora["target_modules"])},
        "rows": list(model.embedding.rows.shape),
        "tied": model.tied,
    }


def check_identity(model: MultimodalLM, stored: Mapping[str, Any], where: object) -> None:
    """Raise UserError for the first part of `identity` that differs."""
    names = {
        "token_space": "made with another token space",
        "lora": "made with another LoRA configuration",
        "rows": "new rows of another shape",
        "tied": "tied and untied heads do not mix",
    }
    for key, expected in identity(model).items():
        if stored.get(key) != expected:
            raise UserError(
                names[key],
                where=where,
                found=stored.get(key),
                expected=expected,
                fix="use the profile that the checkpoint was made with, or train anew",
            )


def peft_config(model: MultimodalLM) -> dict[str, Any]:
    """adapter_config.json: PEFT's configuration with the new rows as trainable tokens, free of paths and set
    orders.
    """
    config = model.lm.peft_config["default"].to_dict()
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    ids = list(range(model.space.new_start, model.space.vocab_size_total))
    last = {which: model.row_module(which).rsplit(".", 1)[-1] for which in ("embed", "head")}
    rows = {last["embed"]: ids} if model.tied else {last["embed"]: ids, last["head"]: ids}
    return {
        **config,
        "task_type": "CAUSAL_LM",
        "target_modules": sorted(model.lora["target_modules"]),
        "trainable_token_indices": rows,
        "base_model_name_or_path": model.space.base_text_model.rstrip("/").rsplit("/", 1)[-1],
        "inference_mode": True,
    }
