"""Which files of artifacts/<profile> count as published, what vouches for each, and the index of them all.

    <stage>/MANIFEST.sha256    by the receipt; it vouches for <stage>/data
    <stage>/receipt.json       by a digest of itself, as are the next four
    gates/<ID>/verdict.json
    decision.json
    profile.json               which says whose run it is
    report/drawn.json          which vouches for the other files of report/
    gates/history.jsonl        by a chain of digests, one per line
    INDEX.sha256               by its last line; it names all of them, so that one that is gone is missed

Not published: .state, .staging, logs, release.sig, which `doit verify --signature` checks, and evaluate, where
`doit evaluate` writes for a person to look at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mmpt.build.project import Project
from mmpt.build.receipts import DATA, MANIFEST, RECEIPT
from mmpt.gating.history import one_writer
from mmpt.store.digests import Manifest
from mmpt.store.index import INDEX, write_index
from mmpt.store.stat_cache import StatCache

REPORT, DRAWN, RUNS, GATES, HISTORY = "report", "drawn.json", "runs.jsonl", "gates", "history.jsonl"
DECISION, OWNER = "decision.json", "profile.json"
VERDICT = "verdict.json"
NOT_PUBLISHED = (".state", ".staging", "logs", "evaluate", "release.sig")
TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # as atomic_write names them


def published(project: Project) -> Iterator[Path]:
    """The files that are there, those in the stages' data left out."""
    root = project.root
    for stage in project.stages:
        yield from (path for name in (MANIFEST, RECEIPT) if (path := root / stage.name / name).is_file())
    yield from sorted(root.glob(f"{GATES}/*/{VERDICT}"))
    yield from (path for path in (root / GATES / HISTORY, root / DECISION, root / OWNER) if path.is_file())
    yield from sorted(path for path in (root / REPORT).rglob("*") if path.is_file())


def report_files(project: Project, cache: StatCache | None = None) -> dict[str, str]:
    """Path below report/ -> sha256 of what drawn.json vouches for, as it is now."""
    folder = project.root / REPORT
    found = dict(Manifest.of(folder, cache).entries) if folder.is_dir() else {}
    return {name: value for name, value in found.items() if name != DRAWN}


def index_published(project: Project) -> None:
    """Write INDEX.sha256; the caller holds the profile's lock."""
    with one_writer(project.root):  # verdicts and history may be written by a gate's script at any time
        files = {path: path.relative_to(project.root).as_posix() for path in published(project)}
        write_index(project.root, {name: project.stat_cache.digest(path) for path, name in files.items()})


def clear_leftovers(root: Path) -> None:
    """Remove the temporary files of writes that were killed; the caller holds the profile's lock."""
    with one_writer(root):
        for folder in (root, root / GATES, *(root / GATES).glob("*/"), root / REPORT):
            for path in folder.iterdir() if folder.is_dir() else ():
                if TEMPORARY.fullmatch(path.name):
                    path.unlink()


def strays(project: Project) -> list[str]:
    """Files that nobody published, relative to the artifacts; those in the stages' data left out."""
    known = {path.relative_to(project.root).as_posix() for path in published(project)} | {INDEX}
    stages = {stage.name for stage in project.stages}
    found = []
    for path in sorted(project.root.iterdir()):
        if path.name in NOT_PUBLISHED:
            continue
        below = [path] if not path.is_dir() else _files(path, skip_data=path.name in stages)
        found += [name for one in below if (name := one.relative_to(project.root).as_posix()) not in known]
    return found


def _files(folder: Path, *, skip_data: bool) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if skip_data and path.name == DATA:
            continue
        if path.is_dir():
            yield from _files(path, skip_data=False)
        else:
            yield path
