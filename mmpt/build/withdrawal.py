"""Removes what no longer holds: the decision and its report before anything changes, the release without a GO.

The release is the output of the stages that are declared `granted`. A reader of decision.json, of the report or of the
release must not meet a GO whose reason is gone, also where a run was killed: so they go before the first stage starts,
and come back with the next decision.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mmpt.build.artifact_index import DRAWN, REPORT, RUNS, index_published
from mmpt.build.project import Project
from mmpt.gating import withdraw
from mmpt.gating.decision import decision_path


def withdraw_decision(project: Project) -> None:
    """Remove decision, report and release, if they are there; the caller holds the profile's lock."""
    report = project.root / REPORT
    pages = [path for path in report.rglob("*") if path.is_file() and path.name != RUNS] if report.is_dir() else []
    if not pages and not decision_path(project.root).exists() and not released(project):
        return
    withdraw(project.root)
    (report / DRAWN).unlink(missing_ok=True)
    for path in pages:
        path.unlink(missing_ok=True)
    withdraw_release(project)
    index_published(project)


def released(project: Project) -> list[Path]:
    """Folders of the release that are there."""
    folders = [project.root / stage.name for stage in project.granted]
    return [folder for folder in folders if folder.exists()]


def withdraw_release(project: Project) -> None:
    """Remove each folder of the release in one step."""
    for folder in released(project):
        gone = project.staging / f"out-{folder.name}-withdrawn-{os.getpid()}"
        gone.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)
