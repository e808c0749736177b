"""The report on disk: drawn again where what it shows or the code that draws it changed.

report/drawn.json names its files by digest, and what they were drawn from. It goes away before the first file
is written and comes back after the last, so that half a report never passes for one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mmpt.build.artifact_index import DRAWN, REPORT, clear_leftovers, index_published, report_files
from mmpt.build.project import Project
from mmpt.build.tasks import DEFAULT_PROFILE
from mmpt.gating import history
from mmpt.profile import PACKAGED
from mmpt.store.atomic import atomic_write
from mmpt.store.canonical import digest_json, pretty_json, read_sealed, write_sealed
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError

REPORT_CODE = ("mmpt.report:build_report", "mmpt.report:html")


def write_report(project: Project, stale: Mapping[str, str]) -> Path:
    """Draw the report if need be, then bring INDEX.sha256 up to date; the path of its page.

    Args:
        stale: stage that a gate rests on and that is of another profile, code or input -> why.
    """
    folder = project.root / REPORT
    clear_leftovers(project.root)
    key = digest_json([_key(project), dict(stale), command_of(project)])
    if not _current(project, key):
        (folder / DRAWN).unlink(missing_ok=True)
        put_on_record(project)
        for name, data in draw(project, stale).items():
            atomic_write(folder / name, data)
        files = report_files(project)
        write_sealed(folder / DRAWN, {"schema": "drawn/1", "key": key, "files": files})
    index_published(project)
    return folder / "index.html"


def put_on_record(project: Project) -> None:
    """Append the run to report/runs.jsonl if it differs from the last one there."""
    from mmpt.report import record

    record(project.root)


def draw(project: Project, stale: Mapping[str, str]) -> dict[str, bytes]:
    """The report's files as they should be: name -> content; runs.jsonl grows and is not among them."""
    # Brings jinja, numpy and more: only where something is drawn.
    from mmpt.report import build_report, html, junit, markdown, terminal

    report = build_report(project.root, project.stages, command_of(project), stale)
    return {
        "report.json": pretty_json(report),
        "index.html": html(report, project.root).encode(),
        "report.md": markdown(report).encode(),
        "report.txt": terminal(report).encode(),
        "junit.xml": junit(report).encode(),
    }


def command_of(project: Project) -> str:
    """What a person types in the clone to build this profile: "doit", "doit profile=trial"."""
    path = project.profile.path
    if path.parent == PACKAGED:
        return "doit" if path.stem == DEFAULT_PROFILE else f"doit profile={path.stem}"
    return f"doit profile={os.path.relpath(path, project.repo)}"


def _key(project: Project) -> str:
    shown = [
        *sorted(project.root.glob("*/receipt.json")),
        *sorted(project.root.glob("gates/*/verdict.json")),
        project.root / "decision.json",
        history.history_path(project.root),
    ]
    drawn_with = [sha256_file(path) for path in sorted((Path(__file__).parents[1] / "report").glob("page.*"))]
    digests = {
        path.relative_to(project.root).as_posix(): project.stat_cache.digest(path) for path in shown if path.exists()
    }
    return digest_json([digests, drawn_with, [project.code.closure(body)[0] for body in REPORT_CODE]])


def _current(project: Project, key: str) -> bool:
    try:
        known = read_sealed(project.root / REPORT / DRAWN)
    except UserError:
        return False
    return known.get("key") == key and known.get("files") == report_files(project, project.stat_cache)
