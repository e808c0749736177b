"""Facts of a profile that make a check apply, soften it, or leave it without an object. Nothing else may."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MODALITY_OF_TASK = {"a2t": "audio", "t2a": "audio", "i2t": "image", "t2i": "image"}

# condition -> what to say where it does not hold
CONDITIONS = {
    "generated_corpus": "no corpus source is generated, so there are no attributes to read back",
    "raw_media": "the profile starts from imported shards, so there are no raw media",
    "trained_here": "the profile brings a trained checkpoint, so there was no training to watch",
    "no_prompt_dropout": "the profile trains with prompt dropout",
    "real_audio": "all sounds of the profile are generated",
}


def holding(profile: Mapping[str, Any]) -> frozenset[str]:
    """The names of ``CONDITIONS`` that hold for this profile."""
    imported = profile.get("inputs", {})
    sources = [] if imported else profile.get("corpus", {}).get("sources", [])
    facts = {
        "generated_corpus": any(source.get("reader") == "generated" for source in sources),
        "raw_media": not imported,
        "trained_here": "stage4" not in imported,
        "no_prompt_dropout": not profile.get("mixture", {}).get("prompt_dropout", 0),
        "real_audio": "audio" in _modalities(profile)
        and (bool(imported) or any(source.get("reader") != "generated" for source in sources)),
    }
    return frozenset(name for name, holds in facts.items() if holds)


def absent_slices(profile: Mapping[str, Any]) -> dict[str, str]:
    """Slice name (a modality or a task) -> why this profile has none of it."""
    present = _modalities(profile)
    absent = {
        modality: f"the profile has no {modality} codec"
        for modality in ("audio", "image")
        if modality not in present
    }
    weights = profile.get("mixture", {}).get("weights", {})
    for task, modality in MODALITY_OF_TASK.items():
        if modality in absent:
            absent[task] = absent[modality]
        elif weights and not weights.get(task, 0):
            absent[task] = f"the profile gives task {task} no weight"
    return absent


def _modalities(profile: Mapping[str, Any]) -> set[str]:
    return {name for name, options in profile.get("codecs", {}).items() if options}
