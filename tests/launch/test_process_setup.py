"""What surrounds a stage's code: a GPU that is asked for and absent, and a parent that must not start CUDA."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from mmpt.build.runner import PRELOADED
from mmpt.launch.process_setup import ProcessSetup, prepare, process_environment
from mmpt.store.errors import UserError
from mmpt.store.stage import SliceView, StageContext

ASKS = """
import importlib, sys, torch
asked = []
for name in ("_lazy_init", "init", "current_device", "get_device_capability", "get_device_properties"):
    setattr(torch.cuda, name, lambda *_, name=name, **__: asked.append(name))
for name in sys.argv[1:]:
    importlib.import_module(name)
sys.exit(", ".join(asked) or 0)
"""


def test_what_stages_are_forked_from_does_not_start_cuda():
    environment = process_environment(1)
    assert environment["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"  # is_available() starts it otherwise
    done = subprocess.run([sys.executable, "-c", ASKS, *PRELOADED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_a_thread_that_waits_for_another_sleeps():
    assert process_environment(2)["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.fixture
def context(tmp_path):
    slice_ = SliceView({}, (), "t")
    return StageContext("t", slice_, {}, tmp_path, tmp_path, seed=0, threads=1, device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def as_before():
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_asked_for_and_absent_is_a_line(context, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    prepare(context, ProcessSetup(torch=True))
    assert not torch.utils.deterministic.fill_uninitialized_memory
    with pytest.raises(UserError, match="runtime.device.*nvidia-smi.*cpu"):
        prepare(replace(context, device=device), ProcessSetup(torch=True))
