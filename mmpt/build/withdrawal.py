"""Taking away what no longer holds: the decision and its report before anything changes, the release without a GO.

A reader of decision.json, of the report or of release/ must not meet a GO whose reason is gone, also where a run was
killed: so they go before the first stage starts, and come back with the next decision.
"""

from __future__ import annotations

import os
import shutil

from mmpt.build.artifact_index import DRAWN, REPORT, RUNS, index_published
from mmpt.build.project import Project
from mmpt.gating import withdraw
from mmpt.gating.decision import decision_path

RELEASE = "release"


def withdraw_decision(project: Project) -> None:
    """Remove decision, report and release, if they are there; the caller holds the profile's lock."""
    report = project.root / REPORT
    pages = [path for path in report.rglob("*") if path.is_file() and path.name != RUNS] if report.is_dir() else []
    if not pages and not decision_path(project.root).exists() and not (project.root / RELEASE).exists():
        return
    withdraw(project.root)
    (report / DRAWN).unlink(missing_ok=True)
    for path in pages:
        path.unlink(missing_ok=True)
    withdraw_release(project)
    index_published(project)


def withdraw_release(project: Project) -> bool:
    """Remove release/ in one step; whether there was one."""
    release = project.root / RELEASE
    if not release.exists():
        return False
    gone = project.staging / f"out-{RELEASE}-withdrawn-{os.getpid()}"
    gone.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(gone, ignore_errors=True)
    os.rename(release, gone)
    shutil.rmtree(gone, ignore_errors=True)
    return True
