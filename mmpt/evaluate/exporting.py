"""The torch part of `doit export`: from a finished run's folders to the exported one, without its card."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmpt.evaluate.sets import Codecs, golden_sets
from mmpt.launch.setting import set_up_torch
from mmpt.model.export import Lengths, export_model, probes_of
from mmpt.profile import Profile
from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError
from mmpt.tokens import load


def export(root: Path, profile: Profile, folder: Path, dtype: str | None) -> dict[str, Any]:
    """Write model, adapter, tokenizer and grammar of the released adapter into the new folder `folder`.

    Args:
        root: artifacts/<profile>, with its release. dtype: of the merged weights; None: the run's.

    Returns:
        {"dtype", "base": base.json, "parity": {..}, "lengths": {..}, "token_space": digest, "step"} for the
        card.
    """
    set_up_torch(profile.data["runtime"]["threads"], profile.data["seed"])
    dtype = dtype or profile.data["runtime"]["dtype"]
    space, codecs = load(_data(root, "token_space")), Codecs.open(_data(root, "codecs"))
    lengths = Lengths(
        text_tokens=(1, profile.data["generate"]["max_text_tokens"]),
        audio_frames=_frames(codecs, profile),
        image_tokens=codecs.image.tokens_per_image if codecs.image else None,
    )
    parity = export_model(
        folder,
        base=_data(root, "base"),
        token_space=_data(root, "token_space"),
        space=space,
        adapter=_data(root, "release") / "adapter",
        lengths=lengths,
        probes=probes_of(space, golden_sets(_data(root, "golden"))),
        dtype=getattr(torch, dtype),
    )
    return {
        "dtype": dtype,
        "base": read_json(_data(root, "base") / "base.json"),
        "parity": asdict(parity),
        "lengths": asdict(lengths),
        "space": space.to_json(),
        "token_space": space.digest,
        "release": read_json(_data(root, "release") / "RELEASE.json"),
    }


def _frames(codecs: Codecs, profile: Profile) -> tuple[int, int] | None:
    """An exact length: that of a whole clip, which is what most of the corpus has."""
    if codecs.audio is None:
        return None
    seconds = profile.data["codecs"]["audio"]["clip_seconds"]
    frames = codecs.audio.frames(round(seconds * codecs.audio.sample_rate))
    return frames, frames


def _data(root: Path, stage: str) -> Path:
    folder = root / stage / "data"
    if not folder.is_dir():
        raise UserError(f"stage {stage} was not built yet", where=root.name, fix="run doit first")
    return folder
