"""Which codes the train split holds: rows of a code that never occurs are never trained, and a model can emit them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmpt.shards.shard_set import ShardSet
from mmpt.store.evidence import Metric
from mmpt.store.tasks import MODALITIES
from mmpt.tokens import TokenSpace
from mmpt.tokens.formats import LAYOUTS


def census_metrics(space: TokenSpace, shards: Path) -> list[Metric]:
    """codes_never_seen: share of a codebook that the train split lacks, of a modality's worst one; code_perplexity: exp
    of the entropy of a codebook's codes as a share of its size, slices image and audio.cb<k>; rows_never_seen: count of
    all new rows, reserved special tokens among them.
    """
    counts = np.zeros(space.vocab_size_total, np.int64)
    for modality in MODALITIES:
        for ids in ShardSet.open(shards, modality, "train", space).ids_by_shard():
            counts += np.bincount(ids, minlength=len(counts))
    books = {} if space.image_range is None else {"image": space.image_range}
    books |= {f"audio.cb{k}": segment for k, segment in enumerate(space.audio_ranges)}
    metrics: list[Metric] = []
    unseen: dict[str, tuple[float, int]] = {}
    for name, segment in books.items():
        seen = counts[segment.start : segment.stop]
        even = _perplexity(seen) / len(seen)
        metrics.append(Metric("code_perplexity", even, int(seen.sum()), "share", "higher", slice=name))
        modality, share = name.split(".")[0], float((seen == 0).mean())
        unseen[modality] = max(unseen.get(modality, (0.0, 0)), (share, len(seen)))
    for modality, (share, size) in unseen.items():
        metrics.append(Metric("codes_never_seen", share, size, "share", "lower", slice=modality))
    for layout in LAYOUTS.values():
        if any(name.startswith((layout.source, layout.target)) for name in books):
            for role in (*layout.head, *layout.join, layout.end):
                counts[space.special(role)] += 1
    rows = int((counts[space.new_start :] == 0).sum())
    metrics.append(Metric("rows_never_seen", rows, space.n_new, "rows", "lower"))
    return metrics


def _perplexity(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0
