"""What a profile needs that is not on this machine: data sets, weights, texts, optional packages."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpt.profile.load import PACKAGED, Profile, input_owners
from mmpt.profile.packages import missing_packages
from mmpt.store.errors import UserError

WEIGHTS = {
    "encodec": "config.json and model.safetensors of hub facebook/encodec_24khz or encodec_48khz, or an official "
    "file of https://dl.fbaipublicfiles.com/encodec/v0/: encodec_24khz-d7cc33bc.th, 93 MB, or "
    "encodec_48khz-7e698e3e.th, 76 MB; its sha256 begins as its name ends",
    "transformers": "config.json and model.safetensors, as a codec of transformers is published on the hub",
    "snac": "config.json and pytorch_model.bin of hub hubertsiuzdak/snac_24khz, snac_32khz or snac_44khz",
    "seed": "a folder with seed_quantizer.pt (about 1 GB; hub AILab-CVC/seed-tokenizer-2), eva_vit_g.pth (2.0 GB; "
    "LAVIS) and unclip/ (about 8 GB; hub stabilityai/stable-diffusion-2-1-unclip); their sha256 are not known to us",
    "llamagen": "vq_ds16_t2i.pt (about 0.29 GB; hub peizesun/llamagen_t2i); its sha256 is not known to us",
}
"""Codec -> what belongs at its `path`: files, sizes, sources, digests. The codec itself names what is missing."""

OWN_TABLES = {
    "captions": "captions.jsonl or captions.csv",
    "table": "metadata.csv or metadata.jsonl, or the tables that `file` names",
    "webdataset": "tars of samples",
    "parquet": "parquet or arrow files",
}
"""Reader -> the tables that people write themselves."""

BASE = (
    "the base model's folder: config.json, tokenizer.json and safetensors of two bytes per parameter in bfloat16, "
    "16.4 GB for Qwen3-8B, whose sha256 the hub shows"
)


@dataclass(frozen=True)
class Missing:
    """key: of the profile. path: what it says. what: what belongs there."""

    key: str
    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.key}: {self.path} is not there ({self.what})"


@dataclass(frozen=True)
class MissingPackage(Missing):
    """path: the package's name. what: why it is needed and how to install it."""

    def __str__(self) -> str:
        return f"{self.key}: package {self.path} is not installed ({self.what})"


def missing(profile: Profile, keys: Container[str] | None = None) -> list[Missing]:
    """Every file, folder and optional package that the profile needs and this machine does not have.

    A hub id counts as there: loading it shows whether it can be downloaded.

    Args:
        keys: of the profile, as stages declare them in `external` ("corpus.sources", "base.path"); None: all.
    """

    def asked(group: str) -> bool:
        return keys is None or group in keys or group in ("launcher", "track")

    files = [
        Missing(key, path, what) for group, key, path, what in _named(profile) if asked(group) and not _there(path)
    ]
    packages = [
        MissingPackage(key, name, why) for group, key, name, why in missing_packages(profile.data) if asked(group)
    ]
    return [*files, *packages]


def require_present(profile: Profile, keys: Container[str] | None = None) -> None:
    """Raise UserError with all that is missing, and the way out."""
    if lost := missing(profile, keys):
        head = f"{len(lost)} things that the profile names are missing:" if len(lost) > 1 else "missing:"
        raise UserError("\n  ".join([head, *map(str, lost), way_out(profile)]), where=profile.path.name)


def way_out(profile: Profile) -> str:
    """How to point a profile at what is elsewhere, in one line."""
    if profile.path.parent != PACKAGED:
        return f"put them, or links to them, there; or edit {profile.path.name}"
    return (
        f"put them, or links to them, there; or write a profile that begins with `extends: {profile.name}` "
        "and names your own paths, and run doit with profile=that file"
    )


def _named(profile: Profile) -> Iterator[tuple[str, str, str, str]]:
    """(external key, full key, path, what belongs there). A table of other stages has other sections."""
    data = profile.data
    yield from _named_inputs(data)
    for source in data.get("corpus", {}).get("sources", ()):
        if "path" in source and "inputs" not in data:  # with inputs, sources are left over from an inherited profile
            kind = OWN_TABLES.get(source["reader"], f"{source['reader']} as published")
            key = f"corpus.sources.{source['name']}.path"
            download = f"; the run downloads them from hub {source['hub']}" if "hub" in source else ""
            yield "corpus.sources", key, source["path"], f"the folder of {kind}{download}"
    if data.get("base", {}).get("kind") == "pretrained":
        what = f"the folder of {data['base']['gguf_file']}" if "gguf_file" in data["base"] else BASE
        yield "base.path", "base.path", data["base"]["path"], f"{what}, or a hub id"
    for modality in data.get("codecs", {}):
        group = f"codecs.{modality}.path"
        for key, path in profile.codec_files(group).items():
            codec = data["codecs"][modality]["name"]
            files = WEIGHTS.get(codec) if key == group else None
            yield group, key, str(path), f"weights of codec {codec}" + (f": {files}" if files else "")
    for section, name, what in (
        ("text", "replay_file", "plain text to train on, a line each"),
        ("text", "heldout_file", "plain text to measure on, a line each"),
        ("token_space", "expected", "a token_space.json"),
    ):
        if name in data.get(section, {}):
            yield f"{section}.{name}", f"{section}.{name}", data[section][name], what


UPSTREAM = {
    "uti": "uti.yaml of the upstream run",
    "token_space": "token_space.json of the upstream run, with token_space.sha256 in the same folder",
    "stage3": "a Stage-3 checkpoint: trainable_rows.pt and token_space.json",
    "stage4.rows": "a Stage-4 checkpoint: trainable_rows.pt",
    "stage4.lora": "the LoRA adapter of that checkpoint, in PEFT's format",
    "shards": "Stage-2 shards: train/shard-*.tar and eval/shard-*.tar",
    "jsonl": "a JSONL file of Stage-2 records",
}
"""Key below `inputs` -> what belongs there."""


def _named_inputs(data: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """The files of an upstream run, as `_named` yields them, under the external keys that the import stages declare."""
    for name, owner, last in input_owners(data):
        kind = name if name in UPSTREAM else name.split(".")[0]
        yield f"inputs.{kind}", f"inputs.{name}", owner[last], UPSTREAM[kind]


def _there(path: str) -> bool:
    hub_id = not os.path.isabs(path) and path.count("/") <= 1
    return hub_id or Path(path).exists()
