"""Optional packages in fingerprints: installing one that the profile does not use leaves a finished run fresh."""

from pathlib import Path

import pytest

from mmpt.build import fingerprint as prints
from mmpt.build.code import CodeIndex
from mmpt.build.project import Project
from mmpt.build.stage_table import STAGES
from mmpt.profile import load_profile

REPO = Path(__file__).resolve().parents[2]
OPTIONAL = ("triton", "tensorboard", "ray", "submitit", "vllm", "diffusers", "encodec", "pyarrow", "liger_kernel")


@pytest.fixture(scope="module")
def definitions():
    """definitions(changes): stage -> its definition as installed; changes: sections of the profile, some keys each."""
    code = CodeIndex({"mmpt": REPO / "mmpt"})

    def made(changes=None):
        profile = load_profile("smoke")
        for section, keys in (changes or {}).items():
            profile.data[section] = {**profile.data[section], **keys}
        project = Project(STAGES, profile, REPO)
        return {stage.name: prints.define(project, stage, code) for stage in STAGES}

    return made


@pytest.fixture
def install(monkeypatch):
    """install(names): from now on these packages have version 9.9, as far as fingerprints know."""
    real = prints.version

    def now(*names):
        monkeypatch.setattr(prints, "version", lambda name: "9.9" if name in names else real(name))

    return now


def test_what_no_profile_asks_for_leaves_every_stage_fresh(definitions, install):
    before = definitions()
    install(*OPTIONAL)
    assert definitions() == before
    assert {"torch", "peft", "numpy"} <= set(before["train"]["packages"])


@pytest.mark.parametrize(
    ("package", "changes", "stage"),
    [
        ("diffusers", {"codecs": {"image": {"name": "seed", "path": "seed"}}}, "codecs"),
        ("encodec", {"codecs": {"audio": {"name": "encodec", "clip_seconds": 1.0}}}, "shards"),
        ("triton", {"train": {"compile": True}, "runtime": {"device": "cuda"}}, "train"),
        ("torch", {}, "train"),
    ],
)
def test_what_a_profile_uses_counts(definitions, install, package, changes, stage):
    before = definitions(changes)[stage]
    install(package)
    assert definitions(changes)[stage]["packages"] == before["packages"] | {package: "9.9"} != before["packages"]
