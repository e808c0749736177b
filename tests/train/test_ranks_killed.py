"""torchrun: a rank killed in the middle costs the steps since the last checkpoint and changes nothing."""

import json
import subprocess
import sys

import pytest

from tests.model.tiny_model import save_base
from tests.train.rank_work import PATIENCE
from tests.train.test_ranks import files


def torchrun(root, name, deaths):
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("--max-restarts", "2", "--monitor-interval", "0.1"),
        *("-m", "tests.train.rank_job", str(root), name, json.dumps(deaths)),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.terminate()  # it takes its ranks with it; a kill would leave them
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said


@pytest.mark.slow  # five starts of two processes with torch and transformers: 30 s
def test_kill_minus_nine_of_a_rank_and_then_of_the_other_ends_in_the_same_bytes(tmp_path):
    save_base(tmp_path / "base")
    for name, deaths in {"whole": [], "killed": [[7, 1], [12, 0]]}.items():
        torchrun(tmp_path, name, deaths)
    assert (tmp_path / "killed.resumed").read_text() == "5\n10\n" and not (tmp_path / "whole.resumed").exists()
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
