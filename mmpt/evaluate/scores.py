"""Gates Q1, Q2 and T1: what golden outputs show, how they run free, how near they are to training items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.corpus import oracle
from mmpt.evaluate import caption_reading as reading
from mmpt.evaluate import quality
from mmpt.evaluate.checkpoint import EvalContext, Trained
from mmpt.evaluate.emission import FOLDER, reconstruction_path
from mmpt.evaluate.scoring import item_means, target_losses
from mmpt.evaluate.sets import Record, golden_sets
from mmpt.shards.example_set import ExampleSet
from mmpt.shards.shard_set import ShardSet
from mmpt.store.canonical import read_json
from mmpt.store.evidence import Metric
from mmpt.store.jsonl import read_jsonl
from mmpt.store.stage import StageContext
from mmpt.store.tasks import EMIT_TASKS, MODALITY_OF, READ_TASKS
from mmpt.tokens import TokenSpace, prompt
from mmpt.tokens.stream import Stream

COMPARED = 128  # items per task and split whose losses make the train-test gap


@dataclass(frozen=True)
class Look:
    """Golden outputs of a finished generate stage."""

    space: TokenSpace
    golden: Mapping[str, Sequence[Record]]
    qual: Path
    initial: int
    final: int

    @staticmethod
    def of(ctx: StageContext, workshop: EvalContext, trained: Trained) -> Look:
        return Look(
            workshop.space,
            golden_sets(ctx.inputs["golden"]),
            ctx.inputs["generate"] / "qual",
            trained.initial,
            trained.final,
        )

    def folder(self, step: int, decoding: str) -> Path:
        return self.qual / f"step_{step}" / FOLDER[decoding]

    def rows(self, step: int, task: str, decoding: str) -> list[dict[str, Any]]:
        return read_jsonl(self.folder(step, decoding) / f"step_{step}_golden_{task}.jsonl")

    def summaries(self, step: int) -> dict[tuple[str, str], dict[str, Any]]:
        listed = read_json(self.qual / f"step_{step}" / "golden_summary.json")["summaries"]
        return {(one["task"], one["decoding"]): one for one in listed}


def oracle_metrics(look: Look) -> tuple[list[Metric], list[dict[str, Any]], dict[str, Any]]:
    """Q1's metrics, controls (step 0, temperature 1), details; nothing where no record has attributes."""
    metrics: list[Metric] = []
    controls: list[dict[str, Any]] = []
    details: dict[str, Any] = {}
    for task in EMIT_TASKS:
        records = [record for record in look.golden.get(task, ()) if record["attributes"] and record["mentioned"]]
        if not records:
            continue
        modality = MODALITY_OF[task]
        shown = _accuracies(look, look.final, task, "greedy")
        for name, (value, n) in shown.items():
            metrics.append(Metric("accuracy", value, n, "share", "higher", slice=name))
            metrics.append(Metric("chance", oracle.chance(name.split(".")[1]), n, "share", "none", slice=name))
        metrics.append(
            Metric(
                "mean_accuracy",
                float(np.mean([value for value, _ in shown.values()])),
                len(records),
                "share",
                "higher",
                slice=modality,
            )
        )
        metrics.append(_roundtrip(look, task, modality, records))
        for step, decoding in ((look.initial, "greedy"), (look.initial, "sampled"), (look.final, "sampled")):
            other = _accuracies(look, step, task, decoding)
            details[f"{modality} step_{step} {decoding}"] = {name: value for name, (value, _) in other.items()}
            controls.append(
                {
                    "name": f"step {step} {decoding} {modality} mean accuracy",
                    "n": len(records),
                    "value": float(np.mean([value for value, _ in other.values()])),
                }
            )
        details[f"{modality} step_{look.final} greedy"] = {name: value for name, (value, _) in shown.items()}
    return metrics, controls, details


def caption_metrics(look: Look) -> tuple[list[Metric], list[dict[str, Any]], dict[str, Any], list[dict[str, Any]]]:
    """Q1 on free-running captions: metrics, controls (step 0), details, samples of wrong ones."""
    metrics: list[Metric] = []
    controls: list[dict[str, Any]] = []
    details: dict[str, Any] = {}
    samples: list[dict[str, Any]] = []
    for task in (task for task in READ_TASKS if task in look.golden):
        for step in (look.initial, look.final):
            for decoding, prefix in (("greedy", ""), ("sampled", "sampled_")):
                rows = reading.described(look.rows(step, task, decoding))
                if not rows:
                    continue
                found, shown = reading.attribute_metrics(rows, prefix)
                details[f"{task} step_{step} {decoding}"] = shown
                if step == look.final:
                    metrics += found
                    samples += reading.wrong_samples(rows) if decoding == "greedy" else []
                else:
                    mean = next(one for one in found if one.name == f"{prefix}caption_mean_accuracy")
                    control = {"name": f"step {step} {decoding} {task} mean accuracy", "n": mean.n}
                    controls.append({**control, "value": mean.value})
    return metrics, controls, details, samples


def _accuracies(look: Look, step: int, task: str, decoding: str) -> dict[str, tuple[float, int]]:
    rows = [row for row in look.rows(step, task, decoding) if row["attributes"] and row["mentioned"]]
    hits = quality.oracle_hits(rows, look.folder(step, decoding))
    return {name: (float(np.mean(found)), len(found)) for name, found in sorted(hits.items())}


def _roundtrip(look: Look, task: str, modality: str, records: Sequence[Record]) -> Metric:
    """How often the oracle is right on the reconstruction files: stored codes of test media, decoded."""
    right = []
    for record in records:
        path = look.qual / f"step_{look.final}" / reconstruction_path(task, record["id"])
        seen = quality.read_attributes(modality, path)
        right += [seen.get(name) == value for name, value in record["attributes"].items()]
    return Metric("oracle_roundtrip_accuracy", float(np.mean(right)), len(records), "share", "higher", slice=modality)


def free_metrics(look: Look) -> tuple[list[Metric], dict[str, Any]]:
    """Q2's metrics by <task>.<decoding>."""
    metrics: list[Metric] = []
    before, after = look.summaries(look.initial), look.summaries(look.final)
    for (task, decoding), one in after.items():
        at, n, first = f"{task}.{decoding}", one["total"], before[task, decoding]
        free = one["unconstrained"]
        values = {
            "legal_mass": one["legal_mass"],
            "unconstrained_validity_rate": free["valid"] / free["n"],
            "end_token_rate": free["ended"] / free["n"],
        }
        metrics += [Metric(name, value, n, "share", "higher", slice=at) for name, value in values.items()]
        metrics += [
            Metric("legal_mass_before", first["legal_mass"], n, "share", "none", slice=at),
            Metric(
                "unconstrained_validity_rate_before",
                first["unconstrained"]["valid"] / n,
                n,
                "share",
                "none",
                slice=at,
            ),
        ]
        if task in EMIT_TASKS:
            metrics += _emit_metrics(look, task, decoding, at)
    details = {f"{m.slice} {m.name}": m.value for m in metrics}
    return metrics, details


def _emit_metrics(look: Look, task: str, decoding: str, at: str) -> list[Metric]:
    rows = look.rows(look.final, task, decoding)
    targets = [np.asarray(record["target_ids"]) for record in look.golden[task]]
    metrics = [
        Metric("duplicate_rate", quality.duplicate_rate(rows), len(rows), "share", "lower", slice=at),
        Metric(
            "codebook_usage",
            quality.codebook_usage(rows, targets, look.space),
            len(rows),
            "share",
            "higher",
            slice=at,
        ),
    ]
    stream = look.space.stream if task == "t2a" else Stream((0,))
    constant = quality.constant_rate(rows, targets, stream)
    metrics.append(Metric("constant_rate", constant, len(rows), "share", "lower", slice=at))
    if task == "t2a":
        looped = quality.looped_rate(rows, targets, stream)
        metrics.append(Metric("looped_rate", looped, len(rows), "share", "lower", slice=at))
    return metrics


def memory_metrics(look: Look, ctx: StageContext, workshop: EvalContext) -> tuple[list[Metric], dict[str, Any]]:
    """T1's metrics, and for every t2a and t2i output its nearest training item."""
    metrics: list[Metric] = []
    nearest: dict[str, Any] = {}
    for task in look.golden:
        rows = look.rows(look.final, task, "greedy")
        if task in EMIT_TASKS:
            train = ShardSet.open(ctx.inputs["shards"], MODALITY_OF[task], "train", look.space)
            found = quality.nearest_share(rows, (train.ids(i) for i in range(len(train))))
            metrics.append(
                Metric(
                    "nearest_train_match_rate",
                    float(np.mean([share == 1.0 for share, _ in found])),
                    len(rows),
                    "share",
                    "lower",
                    slice=task,
                )
            )
            nearest[task] = {
                row["id"]: {"share": round(share, 4), "id": train.record(i)["id"] if i >= 0 else None}
                for row, (share, i) in zip(rows, found, strict=True)
            }
        else:
            scores = [quality.token_f1(row["text"], row["caption"]) for row in rows]
            metrics.append(Metric("caption_f1", float(np.mean(scores)), len(rows), "share", "higher", slice=task))
    gaps = _train_test_gaps(look, ctx, workshop)
    metrics += gaps
    return metrics, {"nearest": nearest, "train_test_gap": {m.slice: m.value for m in gaps}}


def _train_test_gaps(look: Look, ctx: StageContext, workshop: EvalContext) -> list[Metric]:
    metrics = []
    with workshop.opened(Trained.of(ctx.inputs["train"]).path(look.final)) as model:
        for task in look.golden:
            means = []
            for split in ("test", "train"):
                examples = ExampleSet.open(ctx.inputs["examples"], ctx.inputs["shards"], look.space, task, split)
                means.append(_mean_losses(model, look.space, examples))
            metrics.append(
                Metric(
                    "train_test_gap_nats",
                    float(means[0].mean() - means[1].mean()),
                    min(map(len, means)),
                    "nats/token",
                    "lower",
                    slice=task,
                )
            )
    return metrics


def _mean_losses(model, space: TokenSpace, examples: ExampleSet) -> np.ndarray:
    """Mean payload loss of COMPARED examples spread evenly over the set."""
    chosen = np.unique(np.linspace(0, len(examples) - 1, COMPARED).astype(int))
    pairs = [(examples.text_ids(i), examples.payload_ids(i)) for i in map(int, chosen)]
    pairs = pairs if examples.task in EMIT_TASKS else [(payload, text) for text, payload in pairs]
    prompts = [prompt(space, examples.task, source) for source, _ in pairs]
    return item_means(target_losses(model, prompts, [np.asarray(target, np.int64) for _, target in pairs]))
