"""Stage codecs: fit or load the codecs of the profile, for the modalities that the corpus has. Reads key
`codecs`.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.codecs import registry
from mmpt.corpus.media import RESAMPLER, clip, load_audio, load_image, media_path
from mmpt.store.errors import UserError
from mmpt.store.jsonl import iter_jsonl, write_jsonl
from mmpt.store.stage import StageContext

FIT_ITEMS = 2000  # training media that a codec is fitted on at most, chosen by a hash of their id


def codecs(ctx: StageContext) -> None:
    """Writes audio/ and image/: what the codec saves, codec.json, and fitted_on.jsonl (ids of the media it
    saw).
    """
    manifest = [_little(record) for record in iter_jsonl(ctx.inputs["manifest"] / "manifest.jsonl")]
    side = {row["id"]: row["split"] for row in iter_jsonl(ctx.inputs["split"] / "split.jsonl")}
    roots = {"corpus": ctx.inputs["corpus"], **ctx.external}
    done = 0
    for modality, create in (("audio", registry.create_audio), ("image", registry.create_image)):
        section = ctx.profile.get(f"codecs.{modality}")
        records = [record for record in manifest if record["modality"] == modality]
        if not section or not records:
            continue
        form = registry.fit_format(modality, section)
        train = [record for record in records if side[record["id"]] == "train"]
        chosen = [] if form is None else fit_choice(train)
        if form is not None and not chosen:
            raise UserError(
                f"no {modality} in the train split to fit codec {section['name']} on",
                where=f"codecs.{modality}",
                found=f"{len(records)} records, none in train",
                expected="at least one",
                fix="lower split.val and split.test, or add records",
            )
        data = None if form is None else _media(ctx, chosen, roots, modality, form, section)
        codec = create(section, data)
        registry.save(codec, ctx.out / modality, section["name"], modality, **_clipping(modality, section))
        write_jsonl(ctx.out / modality / "fitted_on.jsonl", [{"id": record["id"]} for record in chosen])
        ctx.log(
            f"{modality}: {section['name']}, fitted on {len(chosen)} of {len(train)} in train, "
            f"identity {codec.identity()[:12]}"
        )
        done += 1
    if not done:
        raise UserError(
            "no codec for any medium of the corpus",
            where="codecs",
            found=", ".join(sorted({record["modality"] for record in manifest})),
            expected="codecs.audio or codecs.image for what the corpus holds",
        )


def _little(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked of a record here; all of a million records would be 3 GB."""
    return {"id": record["id"], "modality": sys.intern(record["modality"]), "media": record["media"]}


def fit_choice(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most FIT_ITEMS of the records, in their order; which ones doesn't depend on the order."""
    if len(records) <= FIT_ITEMS:
        return list(records)
    by_hash = sorted(records, key=lambda record: hashlib.sha256(record["id"].encode()).digest())
    kept = {record["id"] for record in by_hash[:FIT_ITEMS]}
    return [record for record in records if record["id"] in kept]


def _media(
    ctx: StageContext,
    records: Sequence[Mapping[str, Any]],
    roots: Mapping[str, Path],
    modality: str,
    form: Any,
    section: Mapping[str, Any],
) -> list[np.ndarray]:
    """What the codec is made with: waves cut to the clip length, or pictures."""
    media = []
    for done, record in enumerate(records):
        path = media_path(record, roots)
        if modality == "audio":
            rate, channels = form
            wave = load_audio(path, rate, channels)
            media.append(clip(wave, rate, section["clip_seconds"], section.get("crop", "first"))[0])
        else:
            media.append(load_image(path))
        if done % 100 == 0:
            ctx.progress(done, len(records), modality)
    return media


def _clipping(modality: str, section: Mapping[str, Any]) -> dict[str, Any]:
    if modality == "image":
        return {}
    return {
        "clip_seconds": section["clip_seconds"],
        "crop": section.get("crop", "first"),
        "resampler": RESAMPLER,
    }
