"""Gate B4: whether the written reconstructions show their own media, as well as the codec can.

Stage `generate` decodes generated ids and stored ids by the same functions; if those turn a picture or mix up items,
both come out wrong alike, and no file form shows it. Here each written reconstruction is read back by another library
and compared with its medium: which share it reaches of what the codec itself does (stored codes through `decode`,
nothing between), and how much more that is than with the medium of another group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.codecs.registry import FILE_NAME
from mmpt.evaluate.emission import reconstruction_path
from mmpt.evaluate.media import read_png, read_wav
from mmpt.evaluate.outputs import partners
from mmpt.evaluate.sets import Codecs, Record, item_seed
from mmpt.evaluate.statistics import mean_interval, win_rate
from mmpt.shards.encode import AudioEncoder, ImageEncoder
from mmpt.shards.shard_set import ShardSet
from mmpt.shards.stored import stored_audio, stored_image
from mmpt.store.canonical import read_json
from mmpt.store.evidence import Metric
from mmpt.store.stage import StageContext
from mmpt.store.tasks import EMIT_TASKS, MODALITY_OF
from mmpt.tokens import TokenSpace

COMPARED = 16  # items of a task: 8 s of CPU for 32 sounds of the built-in codec
RESAMPLES = 1000


def ground_truth_metrics(
    ctx: StageContext, codecs: Codecs, space: TokenSpace, sets: Mapping[str, Sequence[Record]], folder: Path
) -> list[Metric]:
    """B4's metrics of t2a and t2i. folder: qual/step_<k>, with the written reconstructions.

    reconstruction_share: (file - other) / (codec - other), means of the codec's own quality measure over the items; 1
    where the file is as good as the codec, 0 where it is as good as another medium. reconstruction_gap: file - other,
    in the codec's unit. reconstruction_win_rate: items whose file fits their own medium better than another.
    """
    metrics: list[Metric] = []
    if not has_media(ctx):
        return metrics
    for task in EMIT_TASKS:
        records = [record for record in sets.get(task, ()) if record["media"]][:COMPARED]
        if records:
            encoder = encoder_of(ctx, codecs, space, MODALITY_OF[task])
            rows = compare(task, records, encoder, ctx.inputs["shards"], space, folder, ctx.seed)
            metrics += share_metrics(rows, task, RESAMPLES, ctx.seed)
    return metrics


def compare(
    task: str,
    records: Sequence[Record],
    encoder: AudioEncoder | ImageEncoder,
    shards: Path,
    space: TokenSpace,
    folder: Path,
    seed: int,
) -> list[dict[str, Any]]:
    """Of each item with a partner: quality of the file (own, other) and of the codec (codec) against the media."""
    held = ShardSet.open(shards, MODALITY_OF[task], "test", space)
    wanted = {record["id"] for record in records}
    places = {one["id"]: place for place, one in enumerate(held.records) if one["id"] in wanted}
    rows = []
    for i, other in enumerate(partners(records)):
        if other < 0:
            continue
        place = places[records[i]["id"]]
        told = _decoded(encoder, held.ids(place), held.record(place), space, seed)
        path = folder / reconstruction_path(task, records[i]["id"])
        made = read_wav(path)[0] if task == "t2a" else read_png(path)
        medium = load_medium(encoder, records[i])  # one at a time: a picture is up to 150 MB
        rows.append(
            {
                "group": records[i]["group"],
                "own": _quality(encoder, medium, made),
                "other": _quality(encoder, load_medium(encoder, records[other]), made),
                "codec": _quality(encoder, medium, told),
            }
        )
    return rows


def share_metrics(rows: Sequence[Mapping[str, Any]], task: str, resamples: int, seed: int) -> list[Metric]:
    """The three metrics of one task."""
    if not rows:
        names = ("reconstruction_share", "reconstruction_gap", "reconstruction_win_rate")
        return [Metric(name, None, 0, slice=task) for name in names]
    own, other, codec = (np.array([row[key] for row in rows]) for key in ("own", "other", "codec"))
    reach = float((codec - other).mean())
    share = float((own - other).mean()) / reach if reach > 0 else None
    gap = mean_interval(own - other, [row["group"] for row in rows], resamples=resamples, seed=seed)
    wins = win_rate(-own, -other)
    return [
        Metric("reconstruction_share", share, len(rows), "share", "higher", slice=task),
        gap.metric("reconstruction_gap", unit="quality", slice=task),
        Metric("reconstruction_win_rate", wins, len(rows), "share", "higher", slice=task),
    ]


def has_media(ctx: StageContext) -> bool:
    """Whether the run has media; an imported one has none."""
    return "corpus" in ctx.inputs


def encoder_of(ctx: StageContext, codecs: Codecs, space: TokenSpace, modality: str) -> AudioEncoder | ImageEncoder:
    """The modality's codec, with what loads a medium as the codec hears or sees it."""
    roots = {"corpus": ctx.inputs["corpus"], **ctx.external}
    if modality == "image":
        return ImageEncoder(codecs.image, space, roots)
    about = read_json(ctx.inputs["codecs"] / "audio" / FILE_NAME)
    return AudioEncoder(codecs.audio, space, roots, about["clip_seconds"], about["crop"])


def load_medium(encoder: AudioEncoder | ImageEncoder, record: Record) -> np.ndarray:
    """float32 [channels, T] at the rate of decodes, or uint8 [H, W, 3]."""
    return encoder.ground_truth(record)


def _decoded(
    encoder: AudioEncoder | ImageEncoder, ids: np.ndarray, record: Mapping[str, Any], space: TokenSpace, seed: int
) -> np.ndarray:
    """The codec's own reconstruction of stored ids."""
    if isinstance(encoder, AudioEncoder):
        return encoder.codec.decode([stored_audio(space, ids, record)])[0]
    return encoder.codec.decode([stored_image(space, ids)], [item_seed(seed, record["id"])])[0]


def _quality(encoder: AudioEncoder | ImageEncoder, medium: np.ndarray, made: np.ndarray) -> float:
    """By the codec's own measure; sounds of unlike length are compared over the shorter one."""
    if encoder.modality == "audio":
        n = min(medium.shape[1], made.shape[1])
        medium, made = medium[:, :n], made[:, :n]
    return float(encoder.codec.quality(medium, made)[encoder.codec.quality_metric])
