"""Stage codecs of a profile with `inputs:`: the codecs that made the run's tokens, checked against its uti.yaml.

Reads profile keys codecs and inputs (uti, shards). Nothing is fitted: there are no media. `codecs.<m>.path`
names weights, or a codec folder that an earlier run of ours published (artifacts/<run>/codecs/data/<m>).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmpt.codecs import registry
from mmpt.codecs.contract import examine, keep_contract
from mmpt.codecs.media import RESAMPLER
from mmpt.shards.upstream import Item, read_tars
from mmpt.store.errors import UserError
from mmpt.store.jsonl import write_jsonl
from mmpt.store.stage import StageContext
from mmpt.store.tasks import MODALITIES

SECTIONS = {"audio": "audio_codec", "image": "image_tokenizer"}
# uti.yaml's name -> the codec's; what must agree for a stored id to mean the same sound or picture.
AGREEING = {
    "audio": {
        "n_codebooks": "n_codebooks",
        "codebook_size": "codebook_size",
        "target_sample_rate": "sample_rate",
        "channels": "channels",
    },
    "image": {"codebook_size": "codebook_size"},
}
SERIALIZATION = "flatten_by_time_interleaved_codebooks"
SILENCE = 1e-4  # chunk gains below it are silence and do not count for the median


def codecs(ctx: StageContext) -> None:
    """Writes audio/ and image/ as a corpus' stage does, with an empty fitted_on.jsonl.

    Raises:
        UserError: a uti.yaml that is none, a codec of other sizes than it says, a codec that would have to be
            fitted.
    """
    uti = read_uti(Path(ctx.profile["inputs.uti"]))
    for modality in MODALITIES:
        section = ctx.profile.get(f"codecs.{modality}")
        if not section:
            continue
        if SECTIONS[modality] not in uti:
            raise UserError(
                f"the run has no {modality} codec",
                where=f"{ctx.profile['inputs.uti']}: {SECTIONS[modality]}",
                found="no such section",
                expected=f"the codec of codecs.{modality}",
                fix=f"leave codecs.{modality} out of the profile",
            )
        codec = _codec(modality, section)
        _check(codec, uti[SECTIONS[modality]], modality)
        if modality == "audio" and getattr(codec, "median_scale", 1.0) is None:
            codec.median_scale = median_scale(ctx)
        clipping: dict[str, Any] = {}
        if modality == "audio":
            clipping = {
                "clip_seconds": float(uti["audio_codec"].get("clip_seconds", section["clip_seconds"])),
                "crop": "first",
                "resampler": RESAMPLER,
            }
        seconds = float(clipping.get("clip_seconds", 1.0))
        keep_contract(ctx, examine(codec, modality, [], section["name"], seconds=seconds), modality, section["name"])
        registry.save(codec, ctx.out / modality, section["name"], modality, **clipping)
        write_jsonl(ctx.out / modality / "fitted_on.jsonl", [])
        ctx.log(f"{modality}: {section['name']}, identity {codec.identity()[:12]}")


def read_uti(path: Path) -> dict[str, Any]:
    """uti.yaml: base_text_model, image_tokenizer, audio_codec, token_space.

    Raises:
        UserError: missing, not YAML, without a codec.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("no such file", where="inputs.uti", found=str(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError("not YAML", where=str(path), found=str(error).splitlines()[0]) from error
    sections = [name for name in SECTIONS.values() if isinstance(content, dict) and content.get(name)]
    if not sections:
        raise UserError(
            "not a uti.yaml",
            where=str(path),
            found=", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__,
            expected=" or ".join(SECTIONS.values()),
        )
    return content


def _codec(modality: str, section: Mapping[str, Any]) -> Any:
    path = section.get("path")
    if path and (Path(path) / registry.FILE_NAME).is_file():
        return {"audio": registry.load_audio, "image": registry.load_image}[modality](Path(path))
    if not path:
        raise UserError(
            "an imported run needs the codec that made its tokens",
            where=f"codecs.{modality}",
            found=f"{section['name']} without a path",
            expected="path: its weights, or a codec folder of an earlier run",
        )
    return {"audio": registry.create_audio, "image": registry.create_image}[modality](section)


def _check(codec: Any, described: Mapping[str, Any], modality: str) -> None:
    for theirs, ours in AGREEING[modality].items():
        if theirs in described and int(described[theirs]) != int(getattr(codec, ours)):
            raise UserError(
                f"the {modality} codec is not the one of uti.yaml",
                where=f"codecs.{modality}",
                found=f"{ours} {getattr(codec, ours)}",
                expected=f"{theirs} {described[theirs]}",
            )
    order = described.get("serialization", SERIALIZATION)
    if order != SERIALIZATION:
        raise UserError("unknown serialization", where="uti.yaml: audio_codec", found=order, expected=SERIALIZATION)


def median_scale(ctx: StageContext) -> float:
    """Median chunk gain of the training sounds, as their shards recorded it; 1 where none did."""
    gains: list[float] = []
    for dataset in ctx.profile.get("inputs.shards", ()):
        for _, item in read_tars(Path(dataset["path"]), dataset["name"]):
            if isinstance(item, Item) and item.side == "train":
                found = np.ravel((item.meta.get("codec_meta") or {}).get("scales") or [])
                gains += [float(one) for one in found if one and one > SILENCE]
    return float(np.median(gains)) if gains else 1.0
