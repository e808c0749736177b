"""Stages corpus, manifest and split. Profile keys they read:

corpus    corpus, split
manifest  corpus.sources, corpus.on_bad_record, codecs.audio.name, codecs.image.name
split     split
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpt.corpus.manifest import measure_all, s1_metrics
from mmpt.corpus.problems import Problem, refuse
from mmpt.corpus.readers import read_source
from mmpt.corpus.split import assign, s2_metrics
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError
from mmpt.store.evidence import write_evidence
from mmpt.store.jsonl import read_jsonl, write_jsonl
from mmpt.store.stage import StageContext

MODALITIES = ("audio", "image")


def corpus(ctx: StageContext) -> None:
    """Reads all sources: records.jsonl, errors.jsonl, and media/ for what the generated corpus made."""
    shares = (ctx.profile["split.val"], ctx.profile["split.test"])
    records: list[dict] = []
    problems: list[Problem] = []
    first_seen: dict[str, str] = {}
    for source in ctx.profile["corpus.sources"]:
        name = source["name"]
        found = read_source(
            source,
            ctx.external.get(name),
            ctx.out,
            ctx.seed,
            shares,
            progress=lambda done, total, name=name: ctx.progress(done, total, name),
        )
        for where, item in found:
            if isinstance(item, Problem):
                problems.append(item)
            elif item["id"] in first_seen:
                problems.append(_duplicate(item, name, where, first_seen[item["id"]]))
            else:
                first_seen[item["id"]] = where
                records.append(item)
    roots = {**ctx.external, "corpus": ctx.out}
    if problems and ctx.profile["corpus.on_bad_record"] == "fail":
        # One list of everything: damaged files would otherwise turn up only after the captions were put
        # right.
        measured = measure_all(records, roots, ctx.threads)
        refuse([*problems, *(m for m in measured if isinstance(m, Problem))])
    if not records:
        raise UserError(
            "the corpus has no usable record",
            where="corpus.sources",
            found=f"{len(problems)} bad records",
            expected="at least one record",
        )
    write_jsonl(ctx.out / "records.jsonl", records)
    write_jsonl(ctx.out / "errors.jsonl", [problem.to_json() for problem in problems])
    ctx.log(f"{len(records)} records, {len(problems)} left out")


def manifest(ctx: StageContext) -> None:
    """Opens every medium: manifest.jsonl, errors.jsonl (all so far), evidence/S1."""
    folder = ctx.inputs["corpus"]
    records = read_jsonl(folder / "records.jsonl")
    results = measure_all(
        records, _roots(ctx), ctx.threads, lambda done, total: ctx.progress(done, total, "media")
    )
    good = [result for result in results if not isinstance(result, Problem)]
    bad = [result for result in results if isinstance(result, Problem)]
    if ctx.profile["corpus.on_bad_record"] == "fail":
        refuse(bad)
    problems = [*read_jsonl(folder / "errors.jsonl"), *(problem.to_json() for problem in bad)]
    path = ctx.out / "manifest.jsonl"
    write_jsonl(path, good)
    write_jsonl(ctx.out / "errors.jsonl", problems)
    wanted = [m for m in MODALITIES if ctx.profile.get(f"codecs.{m}.name")]
    write_evidence(
        ctx.out,
        "S1",
        s1_metrics(good, problems, wanted, ctx.profile["corpus.sources"]),
        subject={"manifest": sha256_file(path)},
        samples=[{"id": p["id"], "where": p["where"], "kind": p["kind"]} for p in problems[:20]],
    )
    ctx.log(f"{len(good)} media read, {len(bad)} unusable")


def split(ctx: StageContext) -> None:
    """Deals records into train, val and test: split.jsonl, evidence/S2."""
    source = ctx.inputs["manifest"] / "manifest.jsonl"
    records = read_jsonl(source)
    path = ctx.out / "split.jsonl"
    write_jsonl(path, assign(records, ctx.profile["split.val"], ctx.profile["split.test"]))
    write_evidence(
        ctx.out,
        "S2",
        s2_metrics(records, read_jsonl(path)),
        subject={"manifest": sha256_file(source), "split": sha256_file(path)},
    )


def _roots(ctx: StageContext) -> dict[str, Path]:
    return {"corpus": ctx.inputs["corpus"], **ctx.external}


def _duplicate(record: Mapping[str, Any], name: str, where: str, first: str) -> Problem:
    return Problem(
        "duplicate_id",
        name,
        where,
        record["id"],
        "duplicate id",
        record["id"],
        "an id that occurs once in the whole corpus",
        f"rename one of them; the first is at {first}",
    )
