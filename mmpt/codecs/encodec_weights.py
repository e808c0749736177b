"""EnCodec's weights: a folder in transformers' layout, a hub id, or an official .th file; all of it or an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpt.codecs.encodec_models import KINDS, HubModel, PackageModel
from mmpt.codecs.hub_folder import FILES, check_folder, download, model_type, open_strictly
from mmpt.codecs.weights import read_state
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError

PUBLISHED = ("facebook/encodec_24khz", "facebook/encodec_48khz")
OFFICIAL = (
    "encodec_24khz-d7cc33bc.th",
    "encodec_48khz-7e698e3e.th",
)  # 93 and 76 MB; sha256 begins as the name ends
URL = "https://dl.fbaipublicfiles.com/encodec/v0/"
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
    missing = [name for name in FILES if not (folder / name).is_file()]
    if len(official) == 1 and len(missing) == len(FILES):
        return official[0]
    if official and (len(official) > 1 or not missing):
        raise UserError(
            "the folder holds EnCodec weights more than once",
            where="codecs.audio.path",
            found=", ".join([*(one.name for one in official), *(n for n in FILES if n not in missing)]),
            expected="one set of weights",
            fix=f"name the file: path: {official[0]}",
        )
    _check_folder(folder)
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


def _check_folder(folder: Path) -> None:
    check_folder(
        folder,
        "codecs.audio.path",
        "config.json and model.safetensors, or one official .th file",
        f"put {{}} of {' or '.join(PUBLISHED)} there, or {' or '.join(OFFICIAL)} of {URL}",
    )
    if (kind := model_type(folder)) != "encodec":
        raise UserError(
            "not an EnCodec model",
            where=str(folder / "config.json"),
            found=f"model_type {kind!r}",
            expected="model_type 'encodec'",
            fix="name other codecs of transformers by `name: transformers`",
        )


def _open_folder(folder: Path) -> Any:
    from transformers import EncodecModel

    return open_strictly(EncodecModel, folder)


def _download(hub_id: str) -> Path:
    return download(
        hub_id,
        "codecs.audio.path",
        "a folder with config.json and model.safetensors, a hub id, or an official .th file",
        f"download both files of {' or '.join(PUBLISHED)} into a folder and name it here",
    )
