"""Stage corpus: read the sources into one list of records. Profile keys it reads: corpus, split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmpt.corpus.manifest import measure_all
from mmpt.corpus.problems import Problem, refuse
from mmpt.corpus.readers import distinct, no_records, read_source
from mmpt.store.jsonl import JsonLines, jsonl_writer, write_jsonl
from mmpt.store.stage import StageContext


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
