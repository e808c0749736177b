"""Codecs by name: the built-in ones, and any that a package registers in entry-point group `mmpt.codecs`.

What an entry point names (a module, a class or an object; it needs nothing of ours) has:

    modality                     "audio" or "image"
    create(options, fit_data)    a codec; `options` is the profile's codec section without name and clip keys
    load(folder)                 the codec that `codec.save(folder)` wrote
    fit_format(options)          optional; what data `create` gets. None: none. Audio: (rate, channels) of its
                                 waves; image: anything else than None, for uint8 [H, W, 3] pictures
    shape(options)               optional; the codec's sizes without its weights, so that `doit fit` knows lengths
                                 before the codec is built. Audio: sample_rate, n_codebooks, codebook_size,
                                 frame_rate, and encode_rate and row_codebooks where the codec has them; image:
                                 tokens_per_image, codebook_size
    code_vectors                 optional; True where the codec has `code_vectors()`

The profile's `path`, and options named `path` or `.._path`, come as absolute paths and are fingerprinted.

A codec may offer `code_vectors()`, float32 [codebooks, codebook_size, D]: what its codes stand for, so that a model's
new rows can start where similar codes are near (profile key warmup.init: codec).
A saved codec is a folder with codec.json; loading dispatches on its `plugin`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from mmpt.codecs.names import entry_point, wrong_modality
from mmpt.codecs.protocol import AudioCodec, ImageCodec
from mmpt.codecs.validation import check_options
from mmpt.launch.arithmetic import exact_arithmetic
from mmpt.store.canonical import read_json, write_json
from mmpt.store.errors import UserError
from mmpt.store.tensors import save_tensors

FILE_NAME = "codec.json"
CODE_VECTORS = "code_vectors.safetensors"
PROTOCOLS = {"audio": AudioCodec, "image": ImageCodec}
COUNT = "a whole number from 1 up"
SIZES = {
    "audio": {
        "sample_rate": COUNT,
        "channels": COUNT,
        "frame_rate": "a number above 0",
        "n_codebooks": COUNT,
        "codebook_size": COUNT,
    },
    "image": {
        "codebook_size": COUNT,
        "tokens_per_image": COUNT,
        "grid": "two whole numbers",
        "proc_size": COUNT,
        "decode_size": COUNT,
    },
}
"""Modality -> attribute of its codecs -> what it holds."""
SHAPE = {
    "audio": ("sample_rate", "n_codebooks", "codebook_size", "frame_rate"),
    "image": ("tokens_per_image", "codebook_size"),
}
"""Modality -> keys of what a plug-in's `shape(options)` returns."""
ABOUT = {"name": "text", "quality_metric": "text", "quality_floor": "a number"}


class _MelRvq:
    """The built-in audio codec as a plug-in."""

    modality = "audio"
    renamed: ClassVar = {"mel_bands": "n_mels"}

    @classmethod
    def _options(cls, options: Mapping[str, Any]):
        from mmpt.codecs.melrvq import MelRvqOptions

        return _typed(MelRvqOptions, {cls.renamed.get(k, k): v for k, v in options.items()}, "codecs.audio")

    @classmethod
    def fit_format(cls, options: Mapping[str, Any]) -> tuple[int, int]:
        return cls._options(options).sample_rate, 1

    @classmethod
    def create(cls, options: Mapping[str, Any], fit_data: Sequence[np.ndarray] | None) -> AudioCodec:
        from mmpt.codecs.melrvq import MelRvq

        return MelRvq.fit(fit_data or (), cls._options(options))

    @staticmethod
    def load(folder: Path) -> AudioCodec:
        from mmpt.codecs.melrvq import MelRvq

        return MelRvq.load(folder)


class _PatchVq:
    """The built-in image codec as a plug-in."""

    modality = "image"

    @staticmethod
    def fit_format(options: Mapping[str, Any]) -> bool:
        return True

    @staticmethod
    def create(options: Mapping[str, Any], fit_data: Sequence[np.ndarray] | None) -> ImageCodec:
        from mmpt.codecs.patchvq import PatchVq, PatchVqOptions

        return PatchVq.fit(fit_data or (), _typed(PatchVqOptions, options, "codecs.image"))

    @staticmethod
    def load(folder: Path) -> ImageCodec:
        from mmpt.codecs.patchvq import PatchVq

        return PatchVq.load(folder)


# A string is a module whose import is expensive (torch); it is imported when asked for. A codec of both modalities has
# one for each.
_BUILT_IN: dict[str, Any] = {
    "melrvq": _MelRvq,
    "patchvq": _PatchVq,
    "encodec": "mmpt.codecs.encodec",
    "transformers": {"audio": "mmpt.codecs.transformers_audio", "image": "mmpt.codecs.transformers_image"},
    "snac": "mmpt.codecs.snac",
    "seed": "mmpt.codecs.seed",
    "llamagen": "mmpt.codecs.llamagen",
}


def plugin(name: str, modality: str) -> Any:
    """The plug-in of that name. Raises UserError for an unknown name or one of the other modality."""
    if name in _BUILT_IN:
        found = _BUILT_IN[name]
        found = found[modality] if isinstance(found, dict) else found
        found = importlib.import_module(found) if isinstance(found, str) else found
    else:
        found = _resolve(entry_point(name, modality))
    if getattr(found, "modality", None) != modality:
        has = hasattr(found, "modality")
        raise wrong_modality(name, modality, f"modality {found.modality!r}" if has else "a plug-in without `modality`")
    return found


def modality_of(name: str, point: EntryPoint) -> str:
    """The modality of a plug-in, which is imported for it. Raises UserError where it says none."""
    found = getattr(_resolve(point), "modality", None)
    if found not in PROTOCOLS:
        raise UserError(
            f"codec {name} does not say its modality",
            where=f"entry point {point.value}",
            found=repr(found),
            expected="modality = 'audio' or 'image'",
        )
    return found


def fit_format(modality: str, options: Mapping[str, Any]) -> Any:
    """What data the codec of a profile section wants to be made with; None for none. See this file's first
    lines.
    """
    found = plugin(options["name"], modality)
    return found.fit_format(own_options(options)) if hasattr(found, "fit_format") else None


def shape(modality: str, section: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The sizes of a codec that is not built yet, as its plug-in tells them; None where it does not.

    Raises:
        UserError: sizes that are missing or of another type.
    """
    found = plugin(section["name"], modality)
    if not hasattr(found, "shape"):
        return None
    told = found.shape(own_options(section))
    for key in SHAPE[modality]:
        if not isinstance(told.get(key), int | float) or told[key] <= 0:
            raise UserError(
                f"shape(options) of codec {section['name']} lacks a size",
                where=f"codecs.{modality}",
                found=f"{key}: {told.get(key)!r}",
                expected="numbers for " + ", ".join(SHAPE[modality]),
            )
    return told


def own_options(section: Mapping[str, Any]) -> dict[str, Any]:
    """A profile's codec section as the plug-in sees it: name, clip keys and order off, `options` merged in."""
    kept = {k: v for k, v in section.items() if k not in ("name", "clip_seconds", "crop", "order", "options")}
    return {**kept, **section.get("options", {})}


def create_audio(section: Mapping[str, Any], fit_data: Sequence[np.ndarray] | None = None) -> AudioCodec:
    """The audio codec of profile section `codecs.audio`; `fit_data` as `fit_format` asks."""
    return _create("audio", section, fit_data)


def create_image(section: Mapping[str, Any], fit_data: Sequence[np.ndarray] | None = None) -> ImageCodec:
    """The image codec of profile section `codecs.image`; `fit_data` as `fit_format` asks."""
    return _create("image", section, fit_data)


def load_audio(folder: Path, device: str = "cpu") -> AudioCodec:
    """The audio codec saved in `folder`, on `device` if it has a `to(device)`.

    Raises UserError when it isn't one, or isn't the one that codec.json describes.
    """
    return _load("audio", folder, device)


def load_image(folder: Path, device: str = "cpu") -> ImageCodec:
    """The image codec saved in `folder`, on `device` if it has a `to(device)`.

    Raises UserError when it isn't one, or isn't the one that codec.json describes.
    """
    return _load("image", folder, device)


def describe(codec: AudioCodec | ImageCodec, modality: str) -> dict[str, Any]:
    """What others need to know of a codec, as JSON: name, kind, identity, sizes, quality floor."""
    sizes = {key: getattr(codec, key) for key in SIZES[modality]}
    if modality == "image":
        sizes["grid"] = list(cast(ImageCodec, codec).grid)
    elif hasattr(codec, "row_codebooks"):
        sizes["row_codebooks"] = list(codec.row_codebooks)
    return {
        "name": codec.name,
        "kind": modality,
        "identity": codec.identity(),
        **sizes,
        "quality_metric": codec.quality_metric,
        "quality_floor": codec.quality_floor,
    }


def save(codec: AudioCodec | ImageCodec, folder: Path, plugin_name: str, modality: str, **more: Any) -> None:
    """`codec.save(folder)`, then codec.json: the keys that the codec put there, its description, `plugin`,
    `more`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    codec.save(folder)
    if hasattr(codec, "code_vectors"):  # optional: float32 [codebooks, codebook_size, D]; see warmup.init
        save_tensors(folder / CODE_VECTORS, {"vectors": codec.code_vectors()}, {"codec": codec.name})
    path = folder / FILE_NAME
    written = read_json(path) if path.is_file() else {}
    write_json(path, {**written, **describe(codec, modality), "plugin": plugin_name, **more})


def _create(modality: str, section: Mapping[str, Any], fit_data: Sequence[np.ndarray] | None) -> Any:
    found = plugin(section["name"], modality)
    return _conforming(found.create(own_options(section), fit_data), modality, section["name"])


def _load(modality: str, folder: Path, device: str) -> Any:
    about = read_json(Path(folder) / FILE_NAME)
    name = about.get("plugin", about.get("name"))
    codec = _conforming(plugin(name, modality).load(Path(folder)), modality, name)
    if codec.identity() != about["identity"]:
        raise UserError(
            f"codec {name} isn't the one that was saved",
            where=f"{Path(folder).name}/{FILE_NAME}",
            found=codec.identity(),
            expected=about["identity"],
            fix="restore its weights, or rebuild stage codecs",
        )
    if device != "cpu" and hasattr(codec, "to"):
        exact_arithmetic()  # stages that only run a codec do not set torch up
        codec.to(device)
    return codec


def _conforming(codec: Any, modality: str, name: str) -> Any:
    """The codec, if it has everything that its protocol lists."""
    protocol = PROTOCOLS[modality]
    missing = [member for member in vars(protocol) if member[0] != "_" and not hasattr(codec, member)]
    if missing:
        raise UserError(
            f"codec {name} doesn't follow the {modality} protocol",
            where=f"codecs.{modality}.name",
            found=type(codec).__name__,
            expected="also " + ", ".join(missing),
            fix="see mmpt/codecs/protocol.py",
        )
    return codec


def _typed(kind: type, options: Mapping[str, Any], where: str) -> Any:
    """An options dataclass from a mapping; an unknown key is refused with the nearest known one."""
    known = [f.name for f in fields(kind)]
    check_options(options, known, where)
    return kind(**options)


def _resolve(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"the codec plug-in {point.name} cannot be imported",
            where=f"entry point {point.value}",
            found=str(error),
            expected="an importable module or object",
            fix="install or repair the package that registers it",
        ) from error
