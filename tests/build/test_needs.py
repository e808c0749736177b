"""What `doit plan` says of room: GPU memory as `doit fit` counts it, and the disk."""

import shutil
from collections import namedtuple

import pytest

from mmpt.build import needs
from mmpt.build.project import Project
from mmpt.profile import Profile

GIB = 2**30
REPORT = {
    "have": 80 * GIB,
    "model": {"parameters": 1000, "trained": {"rows": 60, "lora": 40}},
    "tasks": {"t2a": {"records": 10, "mean": 30.0}, "t2i": {"records": 5, "mean": 4.0}},
    "stages": [
        {"stages": ["warmup"], "total": 48 * GIB, "doing": "a training step on reading"},
        {"stages": ["train", "resume_check"], "total": 49 * GIB, "doing": "a training step"},
    ],
}
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def project(tmp_path, monkeypatch):
    data = {
        "name": "p",
        "runtime": {"device": "cuda", "dtype": "bfloat16"},
        "corpus": {"sources": []},
        "base": {"kind": "pretrained", "path": str(tmp_path / "base")},
        "train": {"steps": 10, "save_every": 4},
    }
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").write_bytes(bytes(5000))
    monkeypatch.setattr(needs, "_counted", lambda project: REPORT)
    return Project((), Profile(data, tmp_path / "p.yaml"), tmp_path)


def test_the_gpu_must_hold_the_largest_of_the_stages_that_run(project, monkeypatch):
    [gpu] = needs.needs(project, {"warmup"})[:1]
    assert (gpu.bytes, gpu.lacking) == (48 * GIB, False)
    monkeypatch.setitem(REPORT, "have", 48 * GIB)
    gpu = needs.needs(project, {"warmup", "train"})[0]
    assert gpu.lacking and "of a GPU 49.0 GiB (train: a training step; 48.0 warmup)" in str(gpu)
    monkeypatch.setitem(REPORT, "have", 0)
    assert str(needs.needs(project, {"train"})[0]).endswith("this machine has no GPU")


def test_the_disk_must_hold_base_export_checkpoints_and_shards(project, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 15_000))
    disk = needs.needs(project, {"base", "staged_export", "train", "warmup", "shards"})[-1]
    assert disk.bytes == 5000 + 5000 + 3 * 1200 + 1200 + 4 * 320
    assert disk.lacking and "3 checkpoints 3.6 kB" in str(disk) and "15.0 kB are free" in str(disk)
    assert not needs.needs(project, {"base"})[-1].lacking


def test_a_run_with_nothing_large_to_do_needs_nothing(project):
    assert needs.needs(project, set()) == []
    assert needs.needs(project, {"split"}) == []
