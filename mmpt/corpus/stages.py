"""Stages corpus, manifest and split. Profile keys they read:

corpus    corpus, split
manifest  corpus.sources, corpus.on_bad_record, codecs.audio.name, codecs.image.name
split     split
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.corpus.fingerprints import Fingerprints, load_near_duplicates
from mmpt.corpus.manifest import measure_all, s1_metrics
from mmpt.corpus.problems import SHOWN, Problem, refuse
from mmpt.corpus.readers import distinct, no_records, read_source
from mmpt.corpus.split import deal, s2_metrics
from mmpt.store.canonical import canonical_json
from mmpt.store.digests import sha256_file
from mmpt.store.evidence import write_evidence
from mmpt.store.jsonl import JsonLines, count_lines, jsonl_writer, write_jsonl
from mmpt.store.stage import StageContext

MODALITIES = ("audio", "image")


def corpus(ctx: StageContext) -> None:
    """Reads all sources: records.jsonl, errors.jsonl, and media/ for what the generated corpus made.

    Of each record a key of its id and its place stay in memory, for the message about a second one with that id.
    """
    path = ctx.out / "records.jsonl"
    problems: list[Problem] = []
    n_records = 0
    with jsonl_writer(path) as write:
        for item in _items(ctx):
            if isinstance(item, Problem):
                problems.append(item)
            else:
                n_records += 1
                write(item)
    if problems and ctx.profile["corpus.on_bad_record"] == "fail":
        # One list of everything: damaged files would otherwise turn up only after the captions were put
        # right.
        measured = measure_all(JsonLines(path), {**ctx.external, "corpus": ctx.out}, ctx.threads)
        problems += [one for one in measured if isinstance(one, Problem)]
        path.unlink()
        refuse(problems)
    if not n_records:
        raise no_records(len(problems))
    write_jsonl(ctx.out / "errors.jsonl", [problem.to_json() for problem in problems])
    ctx.log(f"{n_records} records, {len(problems)} left out")


def manifest(ctx: StageContext) -> None:
    """Opens every medium: manifest.jsonl, fingerprints.safetensors, errors.jsonl (all so far), evidence/S1.

    Records pass through; of each its fingerprint is held, 145 or 192 bytes.
    """
    folder = ctx.inputs["corpus"]
    total = count_lines(folder / "records.jsonl")
    results = measure_all(
        JsonLines(folder / "records.jsonl"),
        _roots(ctx),
        ctx.threads,
        lambda done: ctx.progress(done, total, "media"),
    )
    path, errors = ctx.out / "manifest.jsonl", ctx.out / "errors.jsonl"
    first, n_good, n_bad = [], 0, 0
    fingerprints = Fingerprints()
    with jsonl_writer(path) as write, jsonl_writer(errors) as write_error:
        for row in JsonLines(folder / "errors.jsonl"):
            write_error(row)
        for result in results:
            if isinstance(result, Problem):
                n_bad += 1
                first += [result] if n_bad <= SHOWN else []
                write_error(result.to_json())
            else:
                n_good += 1
                fingerprints.add(result["modality"], result.pop("fingerprint"))
                write(result)
        if ctx.profile["corpus.on_bad_record"] == "fail":
            refuse(first, total=n_bad)
    fingerprints.save(ctx.out)
    wanted = [m for m in MODALITIES if ctx.profile.get(f"codecs.{m}.name")]
    write_evidence(
        ctx.out,
        "S1",
        s1_metrics(JsonLines(path), JsonLines(errors), wanted, ctx.profile["corpus.sources"]),
        subject={"manifest": sha256_file(path)},
        samples=[{"id": p["id"], "where": p["where"], "kind": p["kind"]} for p in islice(JsonLines(errors), 20)],
    )
    ctx.log(f"{n_good} media read, {n_bad} unusable")


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


def _items(ctx: StageContext) -> Iterator[dict[str, Any] | Problem]:
    """The records of all sources, in order, and what is wrong with them."""
    return distinct(
        (source["name"], *found) for source in ctx.profile["corpus.sources"] for found in _read(ctx, source)
    )


def _read(ctx: StageContext, source: Mapping[str, Any]) -> Iterator[tuple[str, dict | Problem]]:
    def progress(done: int, total: int) -> None:
        ctx.progress(done, total, source["name"])

    shares = (ctx.profile["split.val"], ctx.profile["split.test"])
    return read_source(source, ctx.external.get(source["name"]), ctx.out, ctx.seed, shares, progress)


def _roots(ctx: StageContext) -> dict[str, Path]:
    return {"corpus": ctx.inputs["corpus"], **ctx.external}
