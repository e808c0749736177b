"""torchrun: ranks ended in the middle cost the steps since the last checkpoint and change nothing."""

import json
import subprocess
import sys

import pytest

from tests.model.tiny_model import save_base
from tests.train.rank_work import PATIENCE
from tests.train.test_distributed import files

pytestmark = pytest.mark.slow  # nine starts of two processes with torch and transformers: a minute


def torchrun(root, name, deaths, code=0):
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("--max-restarts", "2", "--monitor-interval", "0.1"),
        *("-m", "tests.train.rank_job", str(root), name, json.dumps(deaths)),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=3 * PATIENCE)  # for each of three starts
    except subprocess.TimeoutExpired:
        process.terminate()  # it takes its ranks with it; a kill would leave them
        said, _ = process.communicate(timeout=60)
    assert (process.returncode == 0) == (code == 0), said


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    save_base(root / "base")
    torchrun(root, "whole", [])
    return root


def test_kill_minus_nine_of_a_rank_and_then_of_the_other_ends_in_the_same_bytes(root):
    torchrun(root, "killed", [[7, 1, "KILL"], [12, 0, "KILL"]])
    assert (root / "killed.resumed").read_text() == "5\n10\n" and not (root / "whole.resumed").exists()
    assert files(root / "killed") == files(root / "whole")


def test_sigterm_in_a_step_in_a_save_and_to_torchrun_itself_ends_in_the_same_bytes(root):
    """As a cluster takes a machine back: the newest checkpoint is whole, and the next run goes on from it."""
    torchrun(root, "term", [[7, 1, "TERM"], [10, 0, "SAVE"], [12, 0, "ALL"]], code=1)
    assert (root / "term.resumed").read_text() == "5\n5\n"  # the checkpoint of step 10 was not published the first time
    torchrun(root, "term", [])
    assert (root / "term.resumed").read_text() == "5\n5\n10\n"
    assert files(root / "term") == files(root / "whole")
