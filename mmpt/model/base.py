"""The base model's folder: a tiny model made here, or a pretrained one copied from where it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmpt.model.tiny import Pretraining, build_tiny, pretrain
from mmpt.ops import linear_cross_entropy
from mmpt.store.errors import UserError
from mmpt.store.model_files import check_model_folder
from mmpt.tokens.space import TokenSpace

HELD_OUT_ROWS = 128  # rows of held-out text that base.json's own loss rests on


def make_tiny(
    folder: Path,
    space: TokenSpace,
    config: Mapping[str, Any],
    settings: Pretraining | None,
    train_ids: np.ndarray,
    heldout_ids: np.ndarray,
    *,
    seed: int,
    on_step: Callable[[int, float], None],
) -> dict[str, Any]:
    """Build a tiny Qwen3, pretrain it on a text stream, save it to `folder`; returns what base.json says of
    it.

    train_ids, heldout_ids: int32 [M], text ids.
    """
    model = build_tiny(config, space.text_vocab_size, seed)
    before = held_out_loss(model, heldout_ids)
    losses = pretrain(model, train_ids, settings, seed=seed, on_step=on_step) if settings else []
    model.save_pretrained(folder)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "pretraining": {
            "steps": len(losses),
            "tokens": len(losses) * settings.tokens_per_step if settings else 0,
            "stream_tokens": len(train_ids),
            "heldout_nll_before": before,
            "heldout_nll": held_out_loss(model, heldout_ids),
            "unigram_nll": unigram_loss(train_ids, heldout_ids, space.text_vocab_size),
        },
    }


def copy_pretrained(folder: Path, source: str, gguf_file: str | None, dtype: torch.dtype) -> None:
    """A model folder, or a hub id's snapshot, as config.json and safetensors in `folder`.

    safetensors are copied byte for byte. A GGUF file is unpacked: its quantised weights become plain ones.

    Args:
        gguf_file: name of the GGUF file in the source; None: the source has safetensors.
        dtype: of the weights unpacked from a GGUF file.

    Raises:
        UserError: neither such a folder nor a hub id that can be fetched; no weights of that kind there.
    """
    origin = Path(source)
    if not origin.is_dir():
        origin = _snapshot(source, [gguf_file] if gguf_file else ["*.json", "*.safetensors"])
    if gguf_file:
        unpack_gguf(folder, origin, gguf_file, dtype)
        return
    weights = sorted(origin.glob("*.safetensors"))
    if not (origin / "config.json").is_file() or not weights:
        gguf = sorted(path.name for path in origin.glob("*.gguf"))
        raise UserError(
            "no model in safetensors there",
            where="base.path",
            found=source,
            expected="config.json and *.safetensors",
            fix=f"set base.gguf_file: {gguf[0]}" if gguf else "",
        )
    check_model_folder(origin, "base.path")
    folder.mkdir(parents=True, exist_ok=True)
    for path in (
        origin / "config.json",
        *sorted(origin.glob("generation_config.json")),
        *weights,
        *sorted(origin.glob("*.safetensors.index.json")),
    ):
        shutil.copyfile(path, folder / path.name)


def unpack_gguf(folder: Path, origin: Path, name: str, dtype: torch.dtype) -> None:
    """The model of a GGUF file as config.json and safetensors.

    Raises:
        UserError: no such file, package gguf missing, or an architecture that transformers does not read.
    """
    from transformers import AutoModelForCausalLM

    if not (origin / name).is_file():
        raise UserError("no such file", where="base.gguf_file", found=name, expected=f"a file in {origin.name}/")
    try:
        model = AutoModelForCausalLM.from_pretrained(origin, gguf_file=name, dtype=dtype, trust_remote_code=False)
    except Exception as error:  # whatever gguf and transformers raise on a damaged file
        raise UserError(
            "cannot read this GGUF file",
            where=f"base.gguf_file: {name}",
            found=(str(error).strip().splitlines() or [type(error).__name__])[0],
            fix="pip install gguf, if it is missing",
        ) from None
    config, state = model.config, model.state_dict()
    # transformers takes the model for a quantised one, which it would not save.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=dtype)
    plain.load_state_dict(state, assign=True)
    plain.tie_weights()
    plain.save_pretrained(folder)


def _snapshot(hub_id: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            "no such model",
            where="base.path",
            found=f"{hub_id} ({first})",
            expected="a folder, or a hub id that this machine can reach or has in its cache",
        ) from None


def held_out_loss(model: torch.nn.Module, ids: np.ndarray, row_len: int = 128) -> float:
    """Mean next-token loss, nats, over up to HELD_OUT_ROWS windows of a text stream."""
    count = min(HELD_OUT_ROWS, (len(ids) - 1) // row_len)
    if count < 1:
        raise UserError(
            "not enough held-out text",
            where="text_heldout.txt",
            found=f"{len(ids)} tokens",
            expected=f"more than {row_len}",
            fix="raise text.heldout_sentences",
        )
    cut = np.asarray(ids[: count * row_len + 1], np.int64)
    rows = torch.from_numpy(cut[np.arange(count)[:, None] * row_len + np.arange(row_len + 1)])
    with torch.no_grad():
        hidden = model.get_decoder()(input_ids=rows[:, :-1], use_cache=False).last_hidden_state
        head = model.get_output_embeddings().weight
        return float(linear_cross_entropy(hidden.flatten(0, 1), rows[:, 1:].flatten(), head))


def unigram_loss(train_ids: np.ndarray, ids: np.ndarray, vocab: int) -> float:
    """Mean loss, nats, of predicting ids by their share of the training stream (counts start at one)."""
    counts = np.bincount(train_ids, minlength=vocab) + 1.0
    return float(-np.log(counts / counts.sum())[ids].mean())
