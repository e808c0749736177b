"""Gate B4: is each generated file what the codec decodes from the ids that are recorded for it.

Files are written by the functions that decode ids in this package. Where those reverse codes or mix up items, the file
is proper, and on a corpus without attributes nothing hears it. Here the recorded ids become codes by the token space's
ranges alone, the codec decodes them, and the file, read by another library, must hold that and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.codecs.decoders import rows_in_order
from mmpt.codecs.protocol import AudioCodes
from mmpt.evaluate.media import UNREADABLE, read_png, read_wav
from mmpt.evaluate.sets import Codecs, item_seed
from mmpt.store.errors import UserError
from mmpt.store.evidence import Metric
from mmpt.store.jsonl import read_jsonl
from mmpt.store.tasks import EMIT_TASKS
from mmpt.tokens import TokenSpace

COMPARED = 16  # greedy and as many sampled outputs of a task
ROUNDING = 2 / 32768  # of a sample in a 16-bit file: half a step, and 32767 / 32768 for the scale


def file_metrics(space: TokenSpace, codecs: Codecs, folder: Path, step: int, run_seed: int) -> list[Metric]:
    """files_unlike_ids of t2a and t2i. folder: qual/step_<k>, with outputs and files."""
    metrics = []
    for task in EMIT_TASKS:
        unlike = compared = 0
        for below in (folder, folder / "sampled"):
            rows = below / f"step_{step}_golden_{task}.jsonl"
            for row in read_jsonl(rows)[:COMPARED] if rows.is_file() else ():
                compared += 1
                unlike += not is_decoded_from(space, codecs, row, below, run_seed)
        if compared:
            metrics.append(Metric("files_unlike_ids", unlike, compared, "files", "lower", slice=task))
    return metrics


def is_decoded_from(space: TokenSpace, codecs: Codecs, row: Mapping[str, Any], folder: Path, run_seed: int) -> bool:
    """Whether a row's file holds what the codec makes of the row's ids, up to the file's rounding."""
    if row["path"] is None:
        return False
    try:
        if row["task"] == "t2i":
            pixels = _picture(space, codecs, row["ids"], item_seed(run_seed, row["id"]))
            return np.array_equal(read_png(folder / row["path"]), pixels)
        wave, (made, _) = _sound(space, codecs, row["ids"]), read_wav(folder / row["path"])
    except (UserError, *UNREADABLE):  # ids that do not decode, and no file: C1.decode, B4.missing and unreadable say so
        return False
    return made.shape == wave.shape and bool((abs(made - wave) <= ROUNDING).all())


def _picture(space: TokenSpace, codecs: Codecs, ids: Sequence[int], seed: int) -> np.ndarray:
    """uint8 [H, W, 3]."""
    return codecs.image.decode([np.array(ids, np.int32) - space.ranges["IMAGE"].start], [seed])[0]


def _sound(space: TokenSpace, codecs: Codecs, ids: Sequence[int]) -> np.ndarray:
    """float32 [C, T] in -1..1; a row's codes stand in order of time wherever its turn is."""
    about = space.audio_codec or {}
    books = about.get("row_codebooks") or range(space.n_codebooks)
    starts = [space.ranges[f"AUDIO_CB{book}"].start for book in books]
    rows = np.resize(rows_in_order(about.get("serialization"), len(starts), len(ids) // len(starts)), len(ids))
    codes = np.stack([np.array(ids, np.int32)[rows == row] - start for row, start in enumerate(starts)])
    return np.clip(codecs.audio.decode([AudioCodes(codes)])[0], -1.0, 1.0)
