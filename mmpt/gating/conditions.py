"""The only facts of a profile that make a check apply, soften it, or leave it not applicable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmpt.store.tasks import MODALITIES, MODALITY_OF, TASKS

# With less than one empty prompt in fifty the model does not know it, and a gap to it says nothing.
LEAST_DROPOUT = 0.02
NO_SOUNDS = ("llava_pretrain",)  # readers of pictures alone

# condition -> what to say where it does not hold
CONDITIONS = {
    "generated_corpus": "no corpus source is generated, so there are no attributes to read back",
    "raw_media": "the profile starts from imported shards, so there are no raw media",
    "warmed_up_here": "the profile brings the rows of a warm-up, so there was none to watch",
    "trained_here": "the profile brings a trained checkpoint, so there was no training to watch",
    "no_prompt_dropout": "the profile trains with prompt dropout",
    "heldout_file": "the held-out text is generated, from templates that the training text shares",
    "real_audio": "a source of the profile generates sounds",
    "open_ended": "codecs.audio.order puts codes where a sound's length decides, so the model cannot end it",
}


def holding(profile: Mapping[str, Any]) -> frozenset[str]:
    """The names of ``CONDITIONS`` that hold for this profile."""
    imported = profile.get("inputs", {})
    sources = [] if imported else profile.get("corpus", {}).get("sources", [])
    sounding = [one for one in sources if one.get("reader") not in NO_SOUNDS and one.get("sounds") != 0]
    facts = {
        "generated_corpus": any(source.get("reader") == "generated" for source in sources),
        "raw_media": not imported,
        "warmed_up_here": not imported,
        "trained_here": "stage4" not in imported,
        "no_prompt_dropout": profile.get("mixture", {}).get("prompt_dropout", 0) < LEAST_DROPOUT,
        "heldout_file": bool(profile.get("text", {}).get("heldout_file")),
        "open_ended": (profile.get("codecs", {}).get("audio") or {}).get("order", "frame") == "frame",
        # A picture source beside generated sounds, or one recording, makes the generated sounds no harder.
        "real_audio": "audio" in modalities(profile)
        and (bool(imported) or (bool(sounding) and all(one.get("reader") != "generated" for one in sounding))),
    }
    return frozenset(name for name, holds in facts.items() if holds)


def absent_slices(profile: Mapping[str, Any]) -> dict[str, str]:
    """Slice name (a modality or a task) -> why this profile has none of it."""
    present = modalities(profile)
    absent = {modality: f"the profile has no {modality} codec" for modality in MODALITIES if modality not in present}
    weights = profile.get("mixture", {}).get("weights", {})
    for task, modality in MODALITY_OF.items():
        if modality in absent:
            absent[task] = absent[modality]
        elif task not in profile.get("tasks", TASKS):
            absent[task] = f"the profile's `tasks` leave {task} out"
        elif weights and not weights.get(task, 0):
            absent[task] = f"the profile gives task {task} no weight"
    return absent


def trained_tasks(profile: Mapping[str, Any]) -> tuple[str, ...]:
    """The tasks that a run of this profile trains and is judged on."""
    absent = absent_slices(profile) if profile else {}
    return tuple(task for task in TASKS if task not in absent)


def untold_tasks(profile: Mapping[str, Any]) -> tuple[str, ...]:
    """Tasks with a codec and without a weight that the profile does not leave out in ``tasks``."""
    if not profile:
        return ()
    present, told = modalities(profile), profile.get("tasks", TASKS)
    left = (task for task in absent_slices(profile) if task in told and MODALITY_OF.get(task) in present)
    return tuple(left)


def modalities(profile: Mapping[str, Any]) -> set[str]:
    """Those that the profile has a codec for."""
    return {name for name, options in profile.get("codecs", {}).items() if options}
