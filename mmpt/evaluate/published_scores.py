"""Gate T1's trends by measures from the literature: caption metrics always, CLIP, CLAP and KAD where asked for.

Every score has three to be compared with: the same prompts with the reconstructions, with the outputs of step 0, and
swapped among the outputs. None of them decides anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmpt.codecs.media import load_image
from mmpt.evaluate import captions as cap
from mmpt.evaluate.audio_distance import kad
from mmpt.evaluate.emission import reconstruction_path
from mmpt.evaluate.media import read_wav
from mmpt.evaluate.statistics import mean_interval
from mmpt.shards.shard_set import ShardSet
from mmpt.store.evidence import Direction, Metric
from mmpt.store.stage import StageContext
from mmpt.store.tasks import MODALITY_OF, READ_TASKS, SPLITS

if TYPE_CHECKING:
    from mmpt.evaluate.scores import Look

JUDGED = {"t2i": "clip", "t2a": "clap"}


def caption_metrics(look: Look, shards: Path) -> list[Metric]:
    """caption_bleu4, caption_rouge_l, caption_cider of the greedy captions, against all captions of each medium."""
    metrics = []
    for task in READ_TASKS:
        if task not in look.golden:
            continue
        rows = look.rows(look.final, task, "greedy")
        media = [record["media_sha256"] for record in look.golden[task]]
        known = _captions_by_medium(shards, MODALITY_OF[task], set(media))
        wanted = [
            [cap.words(one) for one in known.get(medium, [row["caption"]])]
            for row, medium in zip(rows, media, strict=True)
        ]
        said = [cap.words(row["text"]) for row in rows]
        values = {
            "caption_bleu4": (cap.bleu(said, wanted), "score"),
            "caption_rouge_l": (float(cap.rouge_l(said, wanted).mean()), "score"),
            "caption_cider": (float(cap.cider(said, wanted).mean()), "score, 0..10"),
        }
        metrics += [
            Metric(name, value, len(rows), unit, "higher", slice=task) for name, (value, unit) in values.items()
        ]
    return metrics


def _captions_by_medium(shards: Path, modality: str, media: Set[str]) -> dict[str, list[str]]:
    """Every caption that the corpus has of each of these media, by the medium's digest."""
    known: dict[str, list[str]] = {}
    for split in SPLITS:
        for record in ShardSet.open(shards, modality, split).records:
            if record["media_sha256"] not in media:
                continue
            several = known.setdefault(record["media_sha256"], [])
            if record["caption"] not in several:
                several.append(record["caption"])
    return known


def judged_metrics(look: Look, ctx: StageContext) -> tuple[list[Metric], dict[str, str]]:
    """clip_* and clap_* of the greedy outputs, kad of the sounds; and the digests of the models that judged.

    Raises UserError where a model that the profile names cannot be opened.
    """
    asked: Mapping[str, Any] = ctx.profile.get("evaluate.scores", {}) or {}
    metrics: list[Metric] = []
    digests: dict[str, str] = {}
    for task, name in JUDGED.items():
        if name not in asked or task not in look.golden:
            continue
        judge = _judge(name, asked[name]["path"], ctx.device)
        digests[name] = judge.digest
        found = {which: _embedded(look, judge, task, which) for which in ("final", "initial", "reconstruction")}
        metrics += _fits(name, task, found, ctx)
        if task == "t2a" and asked[name].get("kad", True):
            metrics += _distances(task, found)
    return metrics, digests


def _judge(name: str, path: str, device: str) -> Any:
    from mmpt.evaluate.clap import Clap
    from mmpt.evaluate.clip import Clip

    return (Clip if name == "clip" else Clap).open(path, device)


def _embedded(look: Look, judge: Any, task: str, which: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Unit vectors of media and captions; None where a medium is missing (B4 and C1 say so)."""
    step = look.initial if which == "initial" else look.final
    rows = look.rows(step, task, "greedy")
    if which == "reconstruction":
        paths = [look.qual / f"step_{look.final}" / reconstruction_path(task, row["id"]) for row in rows]
    else:
        paths = [look.folder(step, "greedy") / row["path"] for row in rows if row["path"]]
    if len(paths) < len(rows) or not all(path.is_file() for path in paths):
        return None
    media = [load_image(path) if task == "t2i" else read_wav(path) for path in paths]
    return judge.embeddings(media, [row["caption"] for row in rows])


def _fits(name: str, task: str, found: Mapping[str, Any], ctx: StageContext) -> list[Metric]:
    """Mean cosine of each medium with its own caption; of the final ones also with the others', and against step 0."""
    metrics = []
    suffix = {"final": "", "initial": "_step_0", "reconstruction": "_reconstruction"}
    for which, pair in found.items():
        if pair is None:
            continue
        media, said = pair
        own = (media * said).sum(1)
        interval = mean_interval(own, resamples=ctx.profile["evaluate.bootstrap"], seed=ctx.seed)
        direction: Direction = "higher" if which == "final" else "none"
        metrics.append(interval.metric(f"{name}_score{suffix[which]}", "cosine", direction, task))
        if which == "final" and len(own) > 1:
            others = ((media @ said.T).sum(1) - own) / (len(own) - 1)
            metrics.append(
                mean_interval(own - others, resamples=ctx.profile["evaluate.bootstrap"], seed=ctx.seed).metric(
                    f"{name}_gap_to_swapped", "cosine", "higher", task
                )
            )
    if found["final"] is not None and found["initial"] is not None:
        after, before = ((media * said).sum(1) for media, said in (found["final"], found["initial"]))
        grown = mean_interval(after - before, resamples=ctx.profile["evaluate.bootstrap"], seed=ctx.seed)
        metrics.append(grown.metric(f"{name}_growth_over_step_0", "cosine", "higher", task))
    return metrics


def _distances(task: str, found: Mapping[str, Any]) -> list[Metric]:
    """kad of outputs from the reconstructions, at the end and at step 0."""
    metrics = []
    reconstruction = found["reconstruction"]
    for which, name in (("final", "kad"), ("initial", "kad_step_0")):
        if reconstruction is None or found[which] is None or len(reconstruction[0]) < 2:
            continue
        value = kad(found[which][0], reconstruction[0])
        metrics.append(
            Metric(
                name,
                value,
                len(reconstruction[0]),
                "100 x MMD^2",
                "lower" if which == "final" else "none",
                slice=task,
            )
        )
    return metrics
