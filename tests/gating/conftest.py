"""A profile, a copy of gates/ to edit, the policy read from it, and an empty artifact folder."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest

from mmpt.gating import GATES_FOLDER, load_policy
from mmpt.profile import load_profile


@pytest.fixture
def profile() -> dict:
    """The smoke profile's data without its own gate settings."""
    data = copy.deepcopy(dict(load_profile("smoke").data))
    data.pop("gates", None)
    return data


@pytest.fixture
def gates_folder(tmp_path: Path) -> Path:
    """A copy of gates/ whose scripts, policy, waivers and baselines a test may edit."""
    folder = tmp_path / "gates"
    folder.mkdir()
    for path in GATES_FOLDER.iterdir():
        if path.suffix in (".py", ".yaml", ".json"):
            shutil.copy(path, folder / path.name)
    return folder


@pytest.fixture
def policy(profile: dict, gates_folder: Path):
    """The policy for that profile, read from the copy."""
    return load_policy(gates_folder / "policy.yaml", profile)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty artifacts/<profile>."""
    folder = tmp_path / "artifacts" / "smoke"
    folder.mkdir(parents=True)
    return folder
