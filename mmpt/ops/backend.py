"""Chooses the implementation of the operations: the compiled one, or on request the reference implementation.

The compiled one is the default, and there is no fallback. A stage of the build adopts what stage `extension` published,
so that every stage runs the binary that gate K1 measured.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from mmpt.ops import extension, reference_loss, reference_sampling
from mmpt.ops.screens import Screen
from mmpt.store.canonical import read_json
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError

COMPILED = "compiled"
REFERENCE = "reference"
ABOUT = "extension.json"

_chosen: str = COMPILED


def use(name: str, module: Path | None = None) -> None:
    """Choose the implementation of this process.

    Args:
        name: "compiled" or "reference".
        module: a built module for "compiled"; None: the one of csrc and this machine, which is built if it is missing.

    Raises:
        UserError: there is no compiler, or the module does not load.
    """
    global _chosen
    if name not in (COMPILED, REFERENCE):
        raise ValueError(f"backend {name!r}, expected {COMPILED} or {REFERENCE}")
    if name == COMPILED:
        extension.load(module)
    _chosen = name


def adopt(folder: Path) -> str:
    """Use the implementation that stage `extension` published in `folder`; returns its name.

    Raises:
        UserError: the module is not the one that extension.json names.
    """
    about = read_json(folder / ABOUT)
    if about["backend"] == REFERENCE:
        use(REFERENCE)
        return REFERENCE
    path = folder / about["module"]["file"]
    if sha256_file(path) != about["module"]["sha256"]:
        raise UserError(
            "the compiled module is not the one that was published",
            where=str(path),
            expected=f"sha256 {about['module']['sha256'][:12]}",
            fix="run `doit`: it builds the stage extension again",
        )
    use(COMPILED, path)
    return COMPILED


def active() -> str:
    """ "compiled" or "reference": what the next call runs on."""
    return _chosen


def implementation() -> tuple[ModuleType, ModuleType]:
    """The modules that hold (linear_cross_entropy) and (sample_range, sample_logits)."""
    if _chosen == REFERENCE:
        return reference_loss, reference_sampling
    native = importlib.import_module("mmpt.ops.native")  # builds csrc where nobody has yet
    return native, native


@functools.wraps(reference_loss.linear_cross_entropy)
def linear_cross_entropy(*args: Any, **options: Any) -> Any:
    return implementation()[0].linear_cross_entropy(*args, **options)


@functools.wraps(reference_sampling.sample_range)
def sample_range(*args: Any, **options: Any) -> Any:
    return implementation()[1].sample_range(*args, **options)


@functools.wraps(reference_sampling.sample_logits)
def sample_logits(*args: Any, **options: Any) -> Any:
    return implementation()[1].sample_logits(*args, **options)


def screen(weight_base: Tensor, weight_new: Tensor | None) -> Screen | None:
    """The argument `screen` of `sample_range` for a head (`mmpt.ops.native.screen`).

    None where a screen gains nothing: with the reference implementation, on CUDA, and on a processor without fast
    products of bytes.
    """
    native = implementation()[1]
    if _chosen == REFERENCE or weight_base.device.type != "cpu" or not native.kernels.screens_fast():
        return None
    return native.screen(weight_base, weight_new)


def machine() -> dict[str, str]:
    """The instruction set of the compiled operations, for the receipt's run part; {}: the reference implementation."""
    return {} if _chosen == REFERENCE else {"instruction_set": extension.load().instruction_set()}
