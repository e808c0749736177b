"""Optional packages that a profile needs, so that `doit plan` reports them before the first stage."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmpt.store.tasks import MODALITIES

INSTALL = {
    "diffusers": 'pip install "mmpt[diffusers]"',
    "encodec": "pip install --no-deps encodec && pip install einops",
    "gguf": 'pip install "mmpt[gguf]"',
    "pyarrow": 'pip install "mmpt[readers]"',
    "ray": 'pip install "mmpt[ray]"',
    "snac": 'pip install "mmpt[snac]"',
    "torchaudio": "pip install torchaudio, of the same version and build as torch",
    "submitit": 'pip install "mmpt[slurm]"',
    "mlflow": 'pip install "mmpt[mlflow]"',
    "trackio": 'pip install "mmpt[trackio]"',
    "wandb": 'pip install "mmpt[wandb]"',
}
"""Package -> how to install it. encodec comes without torchaudio, which cannot load beside a CPU build of torch."""

USED_WITH = {"ray": ("pandas", "pyarrow", "fsspec")}
"""Package -> what the used part of it imports: `pip install ray` alone brings a ray.data that fails on import."""


def missing_packages(data: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """(external key, profile key, package, why it is needed) of each package that is needed and not installed.

    The external key is the one that the stages using the package declare in `external`; "launcher" and "track" for all.
    """
    for group, key, package, why in _needed(data):
        if not installed(package):
            yield group, key, package, f"{why}: {INSTALL[package]}"


def counts(package: str, data: Mapping[str, Any]) -> bool:
    """Whether a package that a stage's code names can change its result under this profile.

    Of optional ones only those that the profile asks for: a launcher's package changes no byte, vllm is named for the
    users of an export, and triton compiles nothing without train.compile on CUDA.
    """
    audio, image = (data.get("codecs", {}).get(name) or {} for name in MODALITIES)
    sources = data.get("corpus", {}).get("sources", ())
    used = {
        "diffusers": image.get("name") == "seed",
        "encodec": audio.get("name") == "encodec",
        "snac": audio.get("name") == "snac",
        "pyarrow": any(one["reader"] == "parquet" for one in sources),
        "ray": False,
        "submitit": False,
        "triton": bool(data.get("train", {}).get("compile")) and data.get("runtime", {}).get("device") == "cuda",
        "vllm": False,
    }
    return used.get(package, True)


def installed(package: str) -> bool:
    """Whether it and what is used with it could be imported."""
    return all(importlib.util.find_spec(one) is not None for one in (package, *USED_WITH.get(package, ())))


def _model_type(folder: str) -> str:
    """What config.json of a local folder says; empty where there is none that can be read."""
    try:
        return str(json.loads((Path(folder) / "config.json").read_bytes()).get("model_type", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _needed(data: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    audio, image = (data.get("codecs", {}).get(name) or {} for name in MODALITIES)
    if image.get("name") == "seed":
        yield "codecs.image.path", "codecs.image.name", "diffusers", "codec seed paints its pictures with it"
    if audio.get("name") == "encodec" and Path(audio.get("path", "")).suffix == ".th":
        yield "codecs.audio.path", "codecs.audio.path", "encodec", "official .th files are read with it"
    if audio.get("name") == "snac":
        yield "codecs.audio.path", "codecs.audio.name", "snac", "codec snac is run by it"
    if audio.get("name") == "transformers" and _model_type(audio.get("path", "")) == "higgs_audio_v2_tokenizer":
        yield "codecs.audio.path", "codecs.audio.path", "torchaudio", "transformers' Higgs tokenizer imports it"
    if "gguf_file" in data.get("base", {}):
        yield "base.path", "base.gguf_file", "gguf", "the base is a GGUF file"
    for source in () if "inputs" in data else data.get("corpus", {}).get("sources", ()):
        if source["reader"] == "parquet":
            key = f"corpus.sources.{source['name']}.reader"
            yield "corpus.sources", key, "pyarrow", "parquet and arrow files are read with it"
    for name in data.get("track", ()):
        yield "track", "track", name, f"the run is sent to {name}"
    launcher = data.get("launcher", {})
    for place, level in (
        ("launcher", launcher),
        *((f"launcher.stages.{k}", v) for k, v in launcher.get("stages", {}).items()),
    ):
        package = {"ray": "ray", "slurm": "submitit"}.get(level.get("kind", ""))
        if package:
            yield "launcher", f"{place}.kind", package, f"the launcher {level['kind']} runs on it"
