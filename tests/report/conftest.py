"""One good run and its report, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpt.report import build_report
from tests.report.sample_run import make_run


@pytest.fixture(scope="session")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """artifacts/smoke of a finished run whose gates are all GO. Not to be written to."""
    root = tmp_path_factory.mktemp("good") / "smoke"
    make_run(root)
    return root


@pytest.fixture(scope="session")
def report(good_run: Path) -> dict:
    """Its report."""
    return build_report(good_run)
