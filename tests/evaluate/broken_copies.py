"""Copies of the miniature run's stages, to be damaged."""

from __future__ import annotations

import shutil


def broken(run, tmp_path, stage, change):
    """A copy of a stage's data, changed."""
    folder = tmp_path / stage
    shutil.copytree(run.data(stage), folder)
    change(folder)
    return folder
