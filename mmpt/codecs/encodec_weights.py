"""EnCodec's weights: a folder in transformers' layout, a hub id, or an official .th file; nothing stands in for
what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpt.codecs.encodec_models import KINDS, HubModel, PackageModel
from mmpt.codecs.weights import read_state
from mmpt.store.canonical import read_json
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError

PUBLISHED = ("facebook/encodec_24khz", "facebook/encodec_48khz")
OFFICIAL = (
    "encodec_24khz-d7cc33bc.th",
    "encodec_48khz-7e698e3e.th",
)  # 93 and 76 MB; sha256 begins as the name ends
URL = "https://dl.fbaipublicfiles.com/encodec/v0/"
_FILES = ("config.json", "model.safetensors")
_TH = re.compile(r"encodec_(24khz|48khz)-([0-9a-f]{8,64})\.th")


def locate(options: Mapping[str, Any]) -> Path:
    """What `path` names: a folder with config.json and model.safetensors, or a .th file.

    `path` is such a folder or file, a folder with one .th file, or a hub id. Raises UserError that says what to put
    where.
    """
    if "path" not in options:
        raise UserError(
            "EnCodec needs its weights",
            where="codecs.audio.path",
            found="nothing",
            expected="a folder with config.json and model.safetensors, a hub id, or an official .th file",
            fix=f"e.g. path: {PUBLISHED[0]}, or a file {OFFICIAL[0]} (93 MB, sha256 d7cc33bc..) of {URL}",
        )
    path = Path(options["path"])
    if path.is_file():
        return path
    folder = path if path.is_dir() else _download(str(options["path"]))
    official = sorted(one for one in folder.iterdir() if _TH.fullmatch(one.name))
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if len(official) == 1 and len(missing) == len(_FILES):
        return official[0]
    if official and (len(official) > 1 or not missing):
        raise UserError(
            "the folder holds EnCodec weights more than once",
            where="codecs.audio.path",
            found=", ".join([*(one.name for one in official), *(n for n in _FILES if n not in missing)]),
            expected="one set of weights",
            fix=f"name the file: path: {official[0]}",
        )
    _check_folder(folder, missing)
    return folder


def open_model(where: Path) -> HubModel | PackageModel:
    """The model of what `locate` found; weights that fail their checksum or leave a tensor unset are refused."""
    return _open_official(where) if where.is_file() else HubModel(_open_folder(where))


def read_config(where: Path) -> Any:
    """EncodecConfig of what `locate` found, without reading any tensor."""
    from transformers import EncodecConfig

    return EncodecConfig(**KINDS[_named(where)[0]]) if where.is_file() else EncodecConfig.from_pretrained(where)


def _open_official(file: Path) -> PackageModel:
    kind, prefix = _named(file)
    found = sha256_file(file)
    if not found.startswith(prefix):
        raise UserError(
            "an EnCodec file fails the checksum in its name",
            where=str(file),
            found=f"sha256 {found[: len(prefix)]}..",
            expected=f"{prefix}..",
            fix=f"fetch it again from {URL}",
        )
    return PackageModel(kind, file, read_state(file))


def _named(file: Path) -> tuple[str, str]:
    """("24khz" or "48khz", what its sha256 begins with)."""
    match = _TH.fullmatch(file.name)
    if match is None:
        raise UserError(
            "not the name of an official EnCodec file",
            where="codecs.audio.path",
            found=file.name,
            expected=f"encodec_24khz-<sha256>.th or encodec_48khz-<sha256>.th, e.g. {' or '.join(OFFICIAL)}",
            fix="keep the published name: it says which model it is and carries its checksum",
        )
    return match[1], match[2]


def _check_folder(folder: Path, missing: list[str]) -> None:
    if missing:
        raise UserError(
            "EnCodec weights are incomplete",
            where=f"codecs.audio.path: {folder}",
            found=", ".join(sorted(f.name for f in folder.iterdir())[:8]) or "an empty folder",
            expected="config.json and model.safetensors, or one official .th file",
            fix=f"put {' and '.join(missing)} of {' or '.join(PUBLISHED)} there, or {' or '.join(OFFICIAL)} of {URL}",
        )
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "encodec":
        raise UserError(
            "not an EnCodec model",
            where=str(folder / "config.json"),
            found=f"model_type {kind!r}",
            expected="model_type 'encodec'",
        )


def _open_folder(folder: Path) -> Any:
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
        return Path(snapshot_download(hub_id, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            "EnCodec weights are neither in a local folder nor reachable on the hub",
            where="codecs.audio.path",
            found=hub_id,
            expected="a folder with config.json and model.safetensors, a hub id, or an official .th file",
            fix=f"download both files of {' or '.join(PUBLISHED)} into a folder and name it here "
            f"({type(error).__name__})",
        ) from error
