"""EnCodec's weights: a local folder in the published layout, or a hub id; nothing stands in for what is
missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError

if TYPE_CHECKING:
    from transformers import EncodecModel

PUBLISHED = ("facebook/encodec_24khz", "facebook/encodec_48khz")


def model_folder(options: Mapping[str, Any]) -> Path:
    """The folder with the files of `path`, a local folder or a hub id; UserError says what to put where."""
    if "path" not in options:
        raise UserError(
            "EnCodec needs its weights",
            where="codecs.audio.path",
            found="nothing",
            expected="a folder with config.json and model.safetensors, or a hub id",
            fix=f"e.g. path: {PUBLISHED[0]}",
        )
    path = Path(options["path"])
    folder = path if path.is_dir() else _download(str(options["path"]))
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise UserError(
            "EnCodec weights are incomplete",
            where=f"codecs.audio.path: {folder}",
            found=", ".join(sorted(f.name for f in folder.iterdir())[:8]) or "an empty folder",
            expected="config.json and model.safetensors",
            fix=f"put {' and '.join(missing)} of {' or '.join(PUBLISHED)} there",
        )
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "encodec":
        raise UserError(
            "not an EnCodec model",
            where=str(folder / "config.json"),
            found=f"model_type {kind!r}",
            expected="model_type 'encodec'",
        )
    return folder


def open_model(folder: Path) -> EncodecModel:
    """The model of a folder; weights that leave a tensor unset are refused."""
    from transformers import EncodecModel

    model, report = EncodecModel.from_pretrained(folder, output_loading_info=True)
    lost = sorted(report["missing_keys"]) + sorted(report["mismatched_keys"])
    if lost:
        raise UserError(
            "EnCodec weights are incomplete",
            where=str(folder / "model.safetensors"),
            found=f"{len(lost)} tensors missing or of another shape, e.g. {lost[0]}",
            expected="all tensors of config.json's model",
            fix="fetch the file again",
        )
    return model


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["config.json", "model.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            "EnCodec weights are neither in a local folder nor reachable on the hub",
            where="codecs.audio.path",
            found=hub_id,
            expected="a folder with config.json and model.safetensors, or a hub id",
            fix=f"download both files of {' or '.join(PUBLISHED)} into a folder and name it here "
            f"({type(error).__name__})",
        ) from error
