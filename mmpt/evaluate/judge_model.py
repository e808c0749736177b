"""Opens a model that judges outputs (CLIP, CLAP): a local folder or a hub id, complete or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError

WEIGHTS = "model.safetensors"
_FILES = ("config.json", WEIGHTS, "preprocessor_config.json")
_TOKENIZERS = ("tokenizer.json", "vocab.json")


def open_judge(kind: type, path: str, device: str, *, key: str, example: str) -> tuple[Any, Any, Path, str]:
    """(model in float32, tokenizer, folder, SHA-256 of the weights).

    Raises:
        UserError: no such folder or hub id, files missing (listed), weights that leave a tensor unset.
    """
    from transformers import AutoTokenizer

    folder = Path(path) if Path(path).is_dir() else _download(path, key, example)
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        missing.append(" or ".join(_TOKENIZERS))
    if missing:
        raise UserError(
            f"{kind.__name__}'s files are incomplete",
            where=f"{key}: {folder}",
            found=", ".join(sorted(one.name for one in folder.iterdir())[:8]) or "an empty folder",
            expected=" and ".join(missing),
            fix=f"put the files of a {kind.__name__} there, e.g. of {example}",
        )
    opened: Any = kind
    model, report = opened.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    lost = sorted(report["missing_keys"]) + sorted(report["mismatched_keys"])
    if lost:
        raise UserError(
            f"{kind.__name__}'s weights are incomplete",
            where=str(folder / WEIGHTS),
            found=f"{len(lost)} tensors missing or of another shape, e.g. {lost[0]}",
            expected="all tensors of config.json's model",
        )
    return (
        model.eval().to(device),
        AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
        folder,
        sha256_file(folder / WEIGHTS),
    )


def unit(vectors: torch.Tensor) -> np.ndarray:
    """float32 [n, D] of length 1."""
    return torch.nn.functional.normalize(vectors.float(), dim=1).cpu().numpy()


def _download(hub_id: str, key: str, example: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = [*_FILES, *_TOKENIZERS, "merges.txt", "tokenizer_config.json", "special_tokens_map.json"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            "a model asked for in evaluate.scores is neither in a local folder nor reachable on the hub",
            where=key,
            found=hub_id,
            expected=f"a folder with {', '.join(_FILES)} and a tokenizer, or a hub id",
            fix=f"e.g. download {example} (about 0.6 GB) into a folder and name it here; or leave the key out "
            f"({type(error).__name__})",
        ) from error
