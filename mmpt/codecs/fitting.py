"""Which training media a codec is fitted on, and how they are opened."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpt.codecs.media import load_clip, load_image, media_path
from mmpt.store.stage import StageContext

FIT_ITEMS = 2000  # training media that a codec is fitted on at most, chosen by a hash of their id


def fit_choice(records: Iterable[Mapping[str, Any]], most: int | None = None) -> list[Mapping[str, Any]]:
    """At most `most` (default: FIT_ITEMS) of the records, in their order; which ones doesn't depend on the order."""
    hashed = ((hashlib.sha256(one["id"].encode()).digest(), place, one) for place, one in enumerate(records))
    chosen = heapq.nsmallest(most or FIT_ITEMS, hashed)
    return [record for _, _, record in sorted(chosen, key=lambda one: one[1])]


class FitMedia(Sequence):
    """What a codec is made with, opened when it is asked for: waves cut to the clip length, or pictures."""

    def __init__(
        self,
        ctx: StageContext,
        records: Sequence[Mapping[str, Any]],
        roots: Mapping[str, Path],
        modality: str,
        form: Any,
        section: Mapping[str, Any],
    ):
        self.ctx, self.records, self.roots = ctx, records, roots
        self.modality, self.form, self.section = modality, form, section

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        path = media_path(self.records[place], self.roots)  # IndexError ends an iteration
        if place % 100 == 0:
            self.ctx.progress(place, len(self), self.modality)
        if self.modality == "image":
            return load_image(path)
        rate, channels = self.form
        crop = self.section.get("crop", "first")
        return load_clip(path, rate, channels, self.section["clip_seconds"], crop)[0]
