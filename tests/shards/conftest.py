"""A small run of the real stages, corpus to golden, shared by the tests of this folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.shards.world import World, build_world


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """Generated pictures and sounds through all stages of this package."""
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path
