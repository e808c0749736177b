"""Weights in transformers' layout: a folder with config.json and model.safetensors, or the hub id of one.

Nothing stands in for what is missing: each function refuses in one line that says what belongs where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpt.codecs.weights import place
from mmpt.store.canonical import digest_json, read_json, write_json
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError

CONFIG = "config.json"
FILES = (CONFIG, "model.safetensors")


def download(hub_id: str, where: str, expected: str, fix: str, files: Sequence[str] = FILES) -> Path:
    """The folder of these files of a hub repository.

    Raises:
        UserError: it is neither on this machine nor reachable.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(files)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            "weights are neither in a local folder nor reachable on the hub",
            where=where,
            found=hub_id,
            expected=expected,
            fix=f"{fix} ({type(error).__name__})",
        ) from error


def located(
    options: Mapping[str, Any], where: str, expected: str, fix: str, put: str, files: Sequence[str], few: Sequence[str]
) -> Path:
    """The folder of a codec's option `path`, downloaded where it is a hub id.

    Args:
        files: of the codec. few: those of them that are asked for now; the others are not downloaded.
        fix: what to give as `path`. put: as `fix` of `check_folder`.

    Raises:
        UserError: no `path`, not reachable, or one of `few` is missing.
    """
    if "path" not in options:
        raise UserError("the codec needs its weights", where=where, found="nothing", expected=expected, fix=fix)
    folder = Path(options["path"])
    if not folder.exists():
        folder = download(str(options["path"]), where, expected, fix, few)
    if not all((folder / name).is_file() for name in few):
        check_folder(folder, where, expected, put, files)
    return folder


def published_digest(name: str, options: Mapping[str, Any], config: Mapping[str, Any], weights: Path) -> str:
    """Hex SHA-256 of a published codec: its weight file, its configuration and the options that it is cut by."""
    return digest_json({"name": name, **options, "config": dict(config), "weights": sha256_file(weights)})


def save_published(source: Path, files: Sequence[str], folder: Path, about: Mapping[str, Any]) -> None:
    """The files of a published codec as they are, and `about` as codec.json."""
    for name in files:
        place(source / name, folder / name)
    write_json(folder / "codec.json", dict(about))


def check_folder(folder: Path, where: str, expected: str, fix: str, files: Sequence[str] = FILES) -> None:
    """Raises UserError, which lists what is there, where one of `files` is missing; `fix` has a place for the names."""
    if missing := [name for name in files if not (folder / name).is_file()]:
        there = "a file" if folder.is_file() else "no such folder"
        if folder.is_dir():
            there = ", ".join(sorted(f.name for f in folder.iterdir())[:8])
        raise UserError(
            "weights are incomplete",
            where=f"{where}: {folder}",
            found=there or "an empty folder",
            expected=expected,
            fix=fix.format(" and ".join(missing)),
        )


def model_type(folder: Path) -> str:
    """`model_type` of a folder's config.json; empty where it has none."""
    return str(read_json(folder / CONFIG).get("model_type", ""))


def named_class(name: str, folder: Path) -> Any:
    """The class of transformers that has this name.

    Raises:
        UserError: the installed version has none.
    """
    import transformers

    if not hasattr(transformers, name):
        raise UserError(
            "the installed transformers does not have this model",
            where=str(folder / CONFIG),
            found=f"transformers {transformers.__version__}",
            expected=name,
            fix="pip install -U transformers",
        )
    return getattr(transformers, name)


def open_strictly(model_class: Any, folder: Path, **how: Any) -> Any:
    """The model of a folder, in evaluation mode.

    Args:
        how: further arguments of `from_pretrained`.

    Raises:
        UserError: tensors that the file lacks or has in another shape.
    """
    model, report = model_class.from_pretrained(folder, output_loading_info=True, **how)
    lost = sorted(_names(report["missing_keys"])) + sorted(_names(report["mismatched_keys"]))
    if lost:
        raise UserError(
            "weights are incomplete",
            where=str(folder / FILES[1]),
            found=f"{len(lost)} tensors missing or of another shape, e.g. {lost[0]}",
            expected=f"all tensors of config.json's {model_class.__name__}",
            fix="fetch the file again",
        )
    return model.eval()


def _names(keys: Sequence[Any]) -> list[str]:
    """Of mismatched tensors transformers gives (name, shape, shape)."""
    return [key if isinstance(key, str) else str(key[0]) for key in keys]


def settings(folder: Path) -> Mapping[str, Any]:
    """config.json without what says where a model comes from or how it is stored, not what it computes."""
    kept = dict(read_json(folder / CONFIG))
    for key in ("transformers_version", "_name_or_path", "architectures", "torch_dtype", "dtype"):
        kept.pop(key, None)
    return kept
