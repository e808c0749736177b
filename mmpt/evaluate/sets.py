"""The fixed sets that models are measured on (golden, ablation), and the codecs that make media of ids."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.codecs.protocol import AudioCodes
from mmpt.codecs.registry import load_audio, load_image
from mmpt.shards.golden_files import golden_path
from mmpt.shards.stored import stored_audio
from mmpt.store.jsonl import read_jsonl
from mmpt.store.tasks import TASKS
from mmpt.tokens import Grammar, TokenSpace, grammar, prompt

Record = Mapping[str, Any]

FREE_LONGEST = 2  # times a record's frames: where nothing gives a sound its length, an output is valid up to here


@dataclass(frozen=True)
class Codecs:
    """The run's codecs; None for a modality the run does not have."""

    audio: Any  # an AudioCodec
    image: Any  # an ImageCodec

    @staticmethod
    def open(folder: Path, device: str = "cpu") -> Codecs:
        """From the data folder of stage codecs; networks among them on `device`."""
        return Codecs(
            load_audio(folder / "audio", device) if (folder / "audio").is_dir() else None,
            load_image(folder / "image", device) if (folder / "image").is_dir() else None,
        )


def golden_sets(folder: Path, per_task: int | None = None) -> dict[str, list[Record]]:
    """The golden records of each task that has any, in file order; the first `per_task` where given.

    Golden files are stratified round-robin, so that a prefix is stratified too.
    """
    return _by_task({task: golden_path(folder, task) for task in TASKS}, per_task)


def ablation_sets(folder: Path, limit: int | None = None) -> dict[str, list[Record]]:
    """The ablation records of each task that has any, in file order; the first `limit` where given."""
    return _by_task({task: folder / f"ablation_{task}.jsonl" for task in TASKS}, limit)


def _by_task(paths: Mapping[str, Path | None], limit: int | None) -> dict[str, list[Record]]:
    sets: dict[str, list[Record]] = {
        task: list(read_jsonl(path)[:limit]) for task, path in paths.items() if path is not None and path.is_file()
    }
    return {task: records for task, records in sets.items() if records}


def record_prompt(space: TokenSpace, record: Record) -> np.ndarray:
    """int32: the record's prompt up to and including the start token."""
    return prompt(space, record["task"], record["prompt_ids"])


def record_grammar(space: TokenSpace, record: Record, max_text_tokens: int) -> Grammar:
    """What may be generated for a golden record: its own frames, a whole picture, or bounded text."""
    task = record["task"]
    if task == "t2a":
        return grammar(space, task, frames=int(record["n_frames"]))
    if task == "t2i":
        return grammar(space, task, tokens_per_image=len(record["target_ids"]))
    return grammar(space, task, text=(1, max_text_tokens))


def free_grammar(space: TokenSpace, record: Record, max_text_tokens: int) -> Grammar:
    """What counts as valid where the vocabulary is open: as `record_grammar`, but a sound of any whole number of frames
    up to FREE_LONGEST times the record's, since nothing tells the model how long that is.
    """
    if record["task"] == "t2a":
        return grammar(space, "t2a", frames=(1, FREE_LONGEST * int(record["n_frames"])))
    return record_grammar(space, record, max_text_tokens)


def item_seed(seed: int, *parts: str | int) -> int:
    """The seed of one sample: a function of the run's seed and the sample, never of its place in a batch."""
    text = "\0".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def decode_audio(
    codecs: Codecs, space: TokenSpace, ids: np.ndarray, meta: Mapping[str, Any] | None = None
) -> np.ndarray:
    """float32 [C, T] of audio ids. `meta`: a stored record's own scales, chunking and length; None for
    generated ids.

    Raises UserError for ids outside their codebook or not whole frames.
    """
    codes = AudioCodes(space.audio_from_global(ids)) if meta is None else stored_audio(space, ids, meta)
    return codecs.audio.decode([codes])[0]


def decode_image(codecs: Codecs, space: TokenSpace, ids: np.ndarray, seed: int) -> np.ndarray:
    """uint8 [H, W, 3] of image ids; `seed` is for decoders that draw noise. UserError as decode_audio."""
    return codecs.image.decode([space.image_from_global(ids)], [seed])[0]


def safe_name(record_id: str) -> str:
    """A file name for an id; ids that differ only in characters that file names cannot hold stay apart."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", record_id)[:120]
    return name if name == record_id else f"{name}-{item_seed(0, record_id) % 0xFFFFFF:06x}"
