"""Stage split: train, val and test without a shared recording or picture, for gate S2. Profile keys it reads: split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmpt.corpus.fingerprints import load_near_duplicates
from mmpt.corpus.split import deal, s2_metrics
from mmpt.store.canonical import canonical_json
from mmpt.store.digests import sha256_file
from mmpt.store.evidence import write_evidence
from mmpt.store.jsonl import JsonLines, write_jsonl
from mmpt.store.stage import StageContext
from mmpt.store.tasks import MODALITIES


def split(ctx: StageContext) -> None:
    """Deals records into train, val and test: split.jsonl, evidence/S2. Near duplicates stay together."""
    records = JsonLines(ctx.inputs["manifest"] / "manifest.jsonl")
    path = ctx.out / "split.jsonl"
    told = np.fromiter((MODALITIES.index(one["modality"]) | _shown(one) << 1 for one in records), np.int64)
    modalities, shown = (told & 1).astype(np.uint8), told >> 1
    alike = load_near_duplicates(ctx.inputs["manifest"], modalities)
    # What is known to show something else is no duplicate: a short bell and a short buzz have near fingerprints.
    alike = alike[~different(shown[alike[:, 0]], shown[alike[:, 1]])]
    write_jsonl(path, deal(records, ctx.profile["split.val"], ctx.profile["split.test"], alike))
    ctx.log(f"{len(alike)} pairs of near duplicates, kept together")
    write_evidence(
        ctx.out,
        "S2",
        s2_metrics(records, JsonLines(path), alike),
        subject={"manifest": sha256_file(records.path), "split": sha256_file(path)},
    )


def different(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """bool [pairs]: both are known (not 0) and unequal."""
    return (first != 0) & (second != 0) & (first != second)


def _shown(record: Mapping[str, Any]) -> int:
    """A number for what a generated medium shows, 0 where that is unknown."""
    attributes = record["attributes"]
    return int.from_bytes(hashlib.sha256(canonical_json(attributes)).digest()[:7], "little") + 1 if attributes else 0
