"""Opens a checkpoint for evaluation: the one way in which every measure gets its model."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from mmpt.model.adapter import WEIGHTS, load_adapter
from mmpt.model.multimodal import MultimodalLM
from mmpt.shards.text_set import open_tokenizer
from mmpt.store.canonical import read_json
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError
from mmpt.store.schema import nearest
from mmpt.store.stage import StageContext
from mmpt.store.tensors import read_meta
from mmpt.tokens import TokenSpace, load

NO_LORA = {
    "r": 1,
    "alpha": 1,
    "dropout": 0.0,
    "target_modules": ["q_proj"],
}  # its B is zero: it changes nothing


def release_memory() -> None:
    """Free the models that nobody refers to, in cycles too, and give the device's cached blocks back to others."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class EvalContext:
    """What all checkpoints of a run share: base model, token space, tokenizer, where to compute."""

    base: Path
    space: TokenSpace
    tokenizer: Tokenizer
    seed: int
    device: str
    dtype: str

    @staticmethod
    def of(ctx: StageContext) -> EvalContext:
        return EvalContext.at(ctx.inputs["base"], ctx.inputs["token_space"], ctx.seed, ctx.device, ctx.dtype)

    @staticmethod
    def at(base: Path, token_space: Path, seed: int, device: str, dtype: str) -> EvalContext:
        return EvalContext(base, load(token_space), open_tokenizer(token_space), seed, device, dtype)

    def untrained(self, lora: dict[str, Any] | None = None, layer_norm: bool = False) -> MultimodalLM:
        """The base model with fresh new rows and LoRA, as training would start it without a warm-up."""
        release_memory()  # of the one before, which may be part of a cycle
        model = MultimodalLM.from_base(
            self.base / "model",
            self.space,
            lora or NO_LORA,
            seed=self.seed,
            dtype=getattr(torch, self.dtype),
            device=self.device,
            layer_norm=layer_norm,
        )
        return model.eval()

    @contextmanager
    def opened(self, checkpoint: Path) -> Iterator[MultimodalLM]:
        """The model of a checkpoint folder, LoRA merged, without gradients; random state is left as it was.

        Raises UserError: no such checkpoint, or one of another token space or base.
        """
        lora = dict(read_meta(checkpoint / WEIGHTS)["lora"])
        layer_norm = lora.pop("layer_norm", False)
        model = self.untrained(lora, layer_norm)
        load_adapter(model, checkpoint)
        with torch.no_grad(), model.merged(restore=False):
            yield model


@dataclass(frozen=True)
class Trained:
    """The checkpoints of a finished train stage."""

    folder: Path
    initial: int
    final: int
    saved: tuple[int, ...]

    @staticmethod
    def of(train: Path) -> Trained:
        """From the data folder of stage train."""
        listed = read_json(train / "checkpoints.json")
        return Trained(
            train / "checkpoints",
            step_of(listed["initial"]),
            step_of(listed["final"]),
            tuple(sorted({step_of(name) for name in (listed["initial"], *listed["saved"], listed["final"])})),
        )

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step}"

    def named(self, name: str) -> Path:
        """A checkpoint by its name; UserError with the nearest name where there is none."""
        known = [f"step_{step}" for step in self.saved]
        if name not in known:
            raise UserError("no such checkpoint", found=name, expected=", ".join(known), fix=nearest(name, known))
        return self.folder / name


def step_of(name: str) -> int:
    """500 of "step_500". Raises UserError for another form."""
    prefix, _, number = name.rpartition("_")
    if prefix != "step" or not number.isdigit():
        raise UserError("not a checkpoint's name", found=name, expected="step_<number>")
    return int(number)


def digest(checkpoint: Path) -> str:
    """SHA-256 of the adapter: what of a checkpoint decides its outputs."""
    return sha256_file(checkpoint / WEIGHTS)
