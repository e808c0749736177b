"""JOB.json: a worker's context is its stage's, but for the output."""

import os
from pathlib import Path

import pytest

from mmpt.launch.job import WorkerJob, threads_each
from mmpt.launch.process_setup import ProcessSetup, StageHook
from mmpt.store.launcher import Launcher
from mmpt.store.stage import SliceView, StageContext


def part(ctx, rank, world):
    """Named in the job, never called."""


@pytest.mark.parametrize("logs", [None, Path("build/logs")])
def test_a_job_survives_its_file(tmp_path, logs):
    profile = SliceView({"lora": {"r": 4}, "seed": 1}, ("lora",), "train")
    inputs, external = {"base": tmp_path / "base"}, {"media": tmp_path / "media"}
    ctx = StageContext("train", profile, inputs, tmp_path / "out", tmp_path / "work", external, 7, 2, logs=logs)
    ctx.launcher = Launcher("torchrun", processes=2, shard_base=True)
    hook = StageHook("module:factory", "trend", ("gates",), inputs, external)
    job = WorkerJob.of(ctx, f"{__name__}:part", "", ProcessSetup(True, hook, "extension"))
    again = WorkerJob.read(job.write())
    assert again == job
    context = again.worker_context("cuda:1")
    assert context.device == "cuda:1" and context.out == Path(os.devnull) and context.on_spread is None
    for name in ("name", "inputs", "work", "external", "seed", "dtype", "logs", "launcher"):
        assert getattr(context, name) == getattr(ctx, name)
    assert context.profile["lora.r"] == 4


@pytest.mark.parametrize(
    "kind, workers, device, each",
    [("torchrun", 2, "cpu", 2), ("torchrun", 8, "cpu", 1), ("torchrun", 2, "cuda", 4), ("slurm", 2, "cpu", 4)],
)
def test_workers_on_a_cpu_share_its_threads(tmp_path, kind, workers, device, each):
    ctx = StageContext("train", SliceView({}, (), "train"), {}, tmp_path, tmp_path, threads=4, device=device)
    ctx.launcher = Launcher(kind, processes=workers)
    assert threads_each(ctx) == each
