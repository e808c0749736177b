"""The cluster that a stage starts for itself ends with it."""

import re
import tempfile
from pathlib import Path

import pytest

from mmpt.profile.packages import installed
from tests.launch.conftest import kill, processes_below

pytestmark = pytest.mark.skipif(not installed("ray"), reason="ray is not installed: pip install 'mmpt[ray]'")


@pytest.mark.slow  # 15 s until a cluster has started, and its processes are gone
def test_nothing_of_the_cluster_outlives_a_killed_build(spread, monkeypatch):
    sessions = Path(tempfile.mkdtemp(prefix="ray"))  # short: sockets lie below it
    monkeypatch.setenv("RAY_TMPDIR", str(sessions))
    project = spread("{kind: ray, processes: 2}")
    project.edit("smoke.yaml", "seconds: 0.0, how", "seconds: 60.0, how")
    process = project.start("shards")
    project.wait_for(lambda: len(set(re.findall(r"piece \d in process (\d+)", project.log))) == 2)
    assert any("raylet" in line for line in processes_below(sessions))
    kill(process)
    project.wait_for(lambda: not processes_below(project.folder) and not processes_below(sessions), 30.0)
