"""Loads a causal LM from its files. Weights for another device or rank are only mapped, and cast when they move.

safetensors files are mapped into memory: the processes of a machine share the pages, and the system takes them back
when it needs memory. That ends where another dtype is made of all weights at once: then each process holds a base of
its own, 16 GB for Qwen3-8B in bfloat16. So a model on its way to a device, or to be split over ranks, is loaded in the
dtype of its files, and a weight is cast when it moves; the numbers are the same. Files of several dtypes are loaded
plainly: transformers would bring them to one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmpt.model.layers import decoder_layers
from mmpt.store.errors import UserError
from mmpt.store.model_files import check_model_folder, read_header

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_causal_lm(base: Path | str, dtype: torch.dtype) -> nn.Module:
    """A causal LM from a folder or hub id, without loading messages.

    Raises:
        UserError: neither a folder with a model nor a hub id that can be reached; a damaged or quantised one; files
            that lack tensors of the model, or hold others, where transformers would go on with random weights.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the build and the commands have their own
    if Path(base).is_dir():
        check_model_folder(Path(base), "base.path")
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(base), dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers and safetensors raise errors of every class on what they cannot load
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            "no causal language model there",
            where="base.path",
            found=f"{base} ({first})",
            expected="a folder with config.json and safetensors, or a hub id that this machine can reach",
        ) from None
    _refuse_other_tensors(base, info)
    return model.eval()


def _refuse_other_tensors(base: Path | str, info: Mapping[str, Any]) -> None:
    """Every tensor of the model must come from the files, and every tensor of the files must be one of the model's."""
    wrong = {kind: sorted(map(str, info.get(f"{kind}_keys") or ())) for kind in ("missing", "unexpected", "mismatched")}
    if not any(wrong.values()):
        return
    shown = [f"{len(names)} {kind}, as {', '.join(names[:3])}" for kind, names in wrong.items() if names]
    raise UserError(
        "the base's files do not hold the tensors of its model",
        where="base.path",
        found=f"{base}: {'; '.join(shown)}",
        expected="every tensor of the model that config.json describes, and no other",
        fix="fetch the model again, or save it with save_pretrained of its own class",
    )


def map_causal_lm(base: Path | str, dtype: torch.dtype) -> nn.Module:
    """The same in the dtype of its files, for `place` to bring to `dtype`.

    Raises:
        UserError: as `load_causal_lm`.
    """
    causal = load_causal_lm(base, stored_dtype(Path(base)) or dtype)
    if _keeps_some_in_fp32(causal):  # which ones, and when, is transformers' own rule
        return load_causal_lm(base, dtype)
    return causal


def stored_dtype(folder: Path) -> torch.dtype | None:
    """The one floating dtype of a folder's safetensors; None without any, or where there are several."""
    found: set[torch.dtype] = set()
    for path in sorted(folder.glob("*.safetensors")):
        kinds = {told["dtype"] for told in read_header(path, "base.path").values()}
        found |= {DTYPES[kind] for kind in kinds if kind in DTYPES}
    return found.pop() if len(found) == 1 else None


def place(causal: nn.Module, device: str, dtype: torch.dtype, without: Iterable[nn.Parameter] = ()) -> None:
    """Bring weights to `device` and `dtype` one by one, in place, and buffers to `device`.

    without: parameters that stay as they are.
    """
    left = set(without)
    cast = not _keeps_some_in_fp32(causal)
    for parameter in set(causal.parameters()) - left:
        parameter.data = parameter.data.to(device, dtype if cast else parameter.dtype)
    for module in causal.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
    causal.config.dtype = dtype


def set_aside(causal: nn.Module, dtype: torch.dtype) -> dict[nn.Parameter, Tensor]:
    """Take the decoder layers' matrices out until they are asked for: parameter -> its values, as they are mapped.

    What is left has their shapes, the dtype that they shall have, no memory, and NaN everywhere, so that a model that
    runs without them shows it.
    """
    out: dict[nn.Parameter, Tensor] = {}
    cast = not _keeps_some_in_fp32(causal)
    for parameter in [one for layer in decoder_layers(causal) for one in layer.parameters()]:
        if parameter.ndim > 1:
            out[parameter] = parameter.data
            nothing = torch.full((), torch.nan, dtype=dtype if cast else parameter.dtype)
            parameter.data = nothing.expand(parameter.shape)
    return out


def put_back(module: nn.Module, aside: dict[nn.Parameter, Tensor], device: str) -> None:
    """Give a module's matrices their values again, on `device`; they leave `aside`."""
    for parameter in module.parameters():
        if (values := aside.pop(parameter, None)) is not None:
            parameter.data = values.to(device, parameter.dtype)


def _keeps_some_in_fp32(causal: nn.Module) -> bool:
    return bool(causal._keep_in_fp32_modules or causal._keep_in_fp32_modules_strict)
