"""Stage codecs: fit or load the codecs of the profile, for the modalities that the corpus has. Reads key
`codecs`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpt.codecs import registry
from mmpt.codecs.contract import ITEMS, examine, keep_contract
from mmpt.codecs.fitting import FitMedia, fit_choice
from mmpt.codecs.media import RESAMPLER
from mmpt.codecs.protocol import encode_rate
from mmpt.store.errors import UserError
from mmpt.store.jsonl import JsonLines, iter_jsonl, write_jsonl
from mmpt.store.numbers import Labels
from mmpt.store.stage import StageContext


def codecs(ctx: StageContext) -> None:
    """Writes audio/ and image/: what the codec saves, codec.json, and fitted_on.jsonl (ids of the media it
    saw).
    """
    manifest = JsonLines(ctx.inputs["manifest"] / "manifest.jsonl")
    sides = Labels((row["id"], row["split"]) for row in iter_jsonl(ctx.inputs["split"] / "split.jsonl"))
    counts = Counter((record["modality"], sides.get(record["id"])) for record in manifest)
    roots = {"corpus": ctx.inputs["corpus"], **ctx.external}
    done = 0
    for modality, create in (("audio", registry.create_audio), ("image", registry.create_image)):
        section = ctx.profile.get(f"codecs.{modality}")
        n = sum(count for (kind, _), count in counts.items() if kind == modality)
        if not section or not n:
            continue
        form = registry.fit_format(modality, section)
        mine = (record for record in manifest if record["modality"] == modality)
        train = (record for record in mine if sides.get(record["id"]) == "train")
        chosen = [] if form is None else fit_choice(train)
        if form is not None and not chosen:
            raise UserError(
                f"no {modality} in the train split to fit codec {section['name']} on",
                where=f"codecs.{modality}",
                found=f"{n} records, none in train",
                expected="at least one",
                fix="lower split.val and split.test, or add records",
            )
        data = None if form is None else FitMedia(ctx, chosen, roots, modality, form, section)
        codec = create(section, data)
        mine = (record for record in manifest if record["modality"] == modality)
        few = fit_choice((record for record in mine if sides.get(record["id"]) == "train"), ITEMS)
        _examine(ctx, codec, modality, section, few, roots)
        registry.save(codec, ctx.out / modality, section["name"], modality, **_clipping(modality, section))
        write_jsonl(ctx.out / modality / "fitted_on.jsonl", [{"id": record["id"]} for record in chosen])
        ctx.log(
            f"{modality}: {section['name']}, fitted on {len(chosen)} of {counts[modality, 'train']} in train, "
            f"identity {codec.identity()[:12]}"
        )
        done += 1
    if not done:
        raise UserError(
            "no codec for any medium of the corpus",
            where="codecs",
            found=", ".join(sorted({modality for modality, _ in counts})),
            expected="codecs.audio or codecs.image for what the corpus holds",
        )


def _examine(
    ctx: StageContext,
    codec: Any,
    modality: str,
    section: Mapping[str, Any],
    chosen: Sequence[Mapping[str, Any]],
    roots: Mapping[str, Path],
) -> None:
    """Tries the codec's contract on a few media of the train split."""
    form = (encode_rate(codec), codec.channels) if modality == "audio" else True
    media = list(FitMedia(ctx, chosen, roots, modality, form, section))
    on_device = ctx.device != "cpu" and hasattr(codec, "to")
    if on_device:
        codec.to(ctx.device)
    found = examine(
        codec,
        modality,
        media,
        section["name"],
        seconds=section.get("clip_seconds", 1.0),
        device=ctx.device if on_device else "cpu",
    )
    if on_device:
        codec.to("cpu")
    keep_contract(ctx, found, modality, section["name"])


def _clipping(modality: str, section: Mapping[str, Any]) -> dict[str, Any]:
    if modality == "image":
        return {}
    return {
        "clip_seconds": section["clip_seconds"],
        "crop": section.get("crop", "first"),
        "order": section.get("order", "frame"),
        "resampler": RESAMPLER,
    }
