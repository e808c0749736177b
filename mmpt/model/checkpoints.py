"""Checkpoints: an adapter, and beside it everything a run needs to go on as if it had never stopped.

    step_<k>/adapter_model.safetensors, adapter_config.json    the model, in PEFT's format
    step_<k>/trainer_state.safetensors    optimizer, random state, what was drawn; metadata: step, schedule, loader,
                                          counters

A checkpoint is one folder, published by a rename: it is whole or it is not there. Only safetensors and JSON
are read, so loading runs no code of the file.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mmpt.model.adapter import check_identity, identity, load_adapter, save_adapter
from mmpt.model.multimodal import MultimodalLM
from mmpt.store.atomic import publish_folder
from mmpt.store.errors import UserError
from mmpt.store.model_files import TRAINER_STATE
from mmpt.store.tensors import load_tensors, read_meta, save_tensors

STATE = TRAINER_STATE
_VERSION = 2  # 2: with the counts of what was drawn
_DRAWS = "draws."


@dataclass(frozen=True)
class Saved:
    """What the loop keeps in a checkpoint besides model, optimizer and random state.

    step, schedule, loader, counters: JSON: steps done, schedule, loader state, what the loop counts.
    draws: arrays by name, each beginning with "draws.".
    """

    step: int
    schedule: Mapping[str, Any]
    loader: Mapping[str, Any]
    counters: Mapping[str, Any]
    draws: Mapping[str, Any] = field(default_factory=dict)


def step_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return root / f"step_{step}"


def save_checkpoint(folder: Path, model: MultimodalLM, optimizer: torch.optim.Optimizer, saved: Saved) -> None:
    """Write a full checkpoint, atomically; the random state is the one of this moment.

    Raises:
        OSError: as the disk says; what was at `folder` before stays.
    """
    staging = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    save_adapter(model, staging)
    meta = {
        "version": _VERSION,
        "step": saved.step,
        "schedule": dict(saved.schedule),
        "loader": dict(saved.loader),
        "counters": dict(saved.counters),
        **identity(model),
    }
    drawn = {name: torch.as_tensor(counts) for name, counts in saved.draws.items()}
    state = {**_optimizer_tensors(model, optimizer), **_random_state(model.device), **drawn}
    save_tensors(staging / STATE, state, meta)
    publish_folder(staging, folder)


def load_checkpoint(folder: Path, model: MultimodalLM, optimizer: torch.optim.Optimizer) -> Saved:
    """Put model, optimizer and random state back as they were.

    Raises:
        UserError: missing or half a checkpoint; another token space, row shape, LoRA configuration or set of
            trained parameters.
    """
    path = Path(folder) / STATE
    meta = read_meta(path)
    if meta.get("version") != _VERSION:
        raise UserError("unknown checkpoint version", where=path, found=meta.get("version"), expected=_VERSION)
    check_identity(model, meta, path)
    load_adapter(model, folder)
    tensors = load_tensors(path, "torch")
    names = _names(model)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = _parameter_state(tensors, names[id(parameter)], parameter, path)
    torch.set_rng_state(tensors["rng.cpu"])
    if model.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["rng.cuda"], model.device)
    drawn = {name: value.numpy() for name, value in tensors.items() if name.startswith(_DRAWS)}
    return Saved(meta["step"], meta["schedule"], meta["loader"], meta["counters"], drawn)


def drop_trainer_state(folder: Path) -> None:
    """Keep only the adapter of a checkpoint that a later one has replaced for resuming."""
    (folder / STATE).unlink(missing_ok=True)


def latest(root: Path) -> Path | None:
    """The newest checkpoint below `root` that a run can go on from."""
    found = [folder for folder in root.glob("step_*") if (folder / STATE).is_file()]
    return max(found, key=lambda folder: int(folder.name.removeprefix("step_")), default=None)


def _names(model: MultimodalLM) -> dict[int, str]:
    return {id(parameter): name for name, parameter in model.adapter_parameters().items()}


def _optimizer_tensors(model: MultimodalLM, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    names = _names(model)
    out = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                out[f"optimizer.{key}.{names[id(parameter)]}"] = torch.as_tensor(value)
    return out


def _parameter_state(tensors: Mapping[str, torch.Tensor], name: str, parameter: torch.nn.Parameter, path: Path) -> dict:
    """AdamW's state of one parameter; nothing where no step was made yet."""
    state = {}
    for key in ("step", "exp_avg", "exp_avg_sq"):
        value = tensors.get(f"optimizer.{key}.{name}")
        if value is None:
            continue
        if key != "step" and value.shape != parameter.shape:
            raise UserError(
                "optimizer state of another shape",
                where=f"{path}: {name}",
                found=list(value.shape),
                expected=list(parameter.shape),
            )
        state[key] = value.to(parameter.device)  # fused AdamW counts its steps on the device
    if state and len(state) != 3:
        raise UserError("optimizer state is incomplete", where=f"{path}: {name}", found=sorted(state))
    return state


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    out = {"rng.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        out["rng.cuda"] = torch.cuda.get_rng_state(device)
    return out
