"""Published weight files: which files must be there; reading without running code in them; strict loading."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmpt.store.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Published:
    """One file or folder that a codec needs.

    Args:
        name: where it goes, relative to the codec's `path`.
        size: what it weighs, in words.
        source: where it is published.
        digest: what its sha256 is or begins with; empty where we have not seen the file.
    """

    name: str
    size: str
    source: str
    digest: str = ""

    def __str__(self) -> str:
        digest = f"sha256 {self.digest}" if self.digest else "sha256 not known to us; codec.json keeps that of yours"
        return f"{self.name} ({self.size}; {digest}; from {self.source})"


def require(folder: Path, wanted: Sequence[Published], codec: str, where: str) -> None:
    """Refuse a folder in which something is missing; the one line lists every missing file.

    Raises:
        UserError: with name, size, digest, source and place of each.
    """
    missing = [one for one in wanted if not (folder / one.name).exists()]
    if missing:
        there = ", ".join(sorted(one.name for one in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
        raise UserError(
            f"{codec} needs weights that are not there",
            where=f"{where}: {folder}",
            found=there or "an empty folder",
            expected=" and ".join(str(one) for one in missing),
            fix=f"put them into {folder} under these names",
        )


def read_state(file: Path, nested: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """The tensors of a .pt, .pth or .th file on the CPU; `nested`: keys of which the first present one holds them.

    Raises:
        UserError: not a torch file, or one that holds more than tensors and plain values: such a file could run code.
    """
    import torch

    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            "a weight file holds something other than tensors",
            where=str(file),
            found=str(error).splitlines()[0],
            expected="a state dict, as published",
            fix="fetch it again",
        ) from error
    for key in nested:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            return dict(state[key])
    return dict(state)


def load_strictly(
    model: nn.Module, state: Mapping[str, torch.Tensor], where: Path, *, others_allowed: bool = False
) -> None:
    """Fill every tensor of `model` from `state`, in the model's dtype.

    Args:
        others_allowed: the file may hold more than the model wants: the codec uses part of it.

    Raises:
        UserError: a tensor missing or of another shape; one too many where `others_allowed` is not set.
    """
    own = model.state_dict()
    wrong = [f"{name} missing" for name in own if name not in state]
    wrong += [
        f"{name} {list(state[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if not others_allowed:
        wrong += [f"{name} unknown" for name in state if name not in own]
    if wrong:
        raise UserError(
            "weights are not those of this architecture",
            where=str(where),
            found=f"{len(wrong)} of {len(own)} tensors wrong, e.g. {wrong[0]}",
            expected="the published file",
            fix="fetch it again, or name the file that belongs to this codec",
        )
    model.load_state_dict({name: state[name] for name in own})


def place(source: Path, target: Path) -> None:
    """File `source` at `target` too: as a hard link where the file system allows it (weights are gigabytes), else a
    copy. Nothing happens where both are one file.
    """
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
