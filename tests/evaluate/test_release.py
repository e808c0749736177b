"""The release is the adapter that was judged: another one is refused, when it is made and when it is checked."""

import json
import shutil

import pytest

from mmpt.gating import judged as rel
from mmpt.stages.release import release
from mmpt.store.canonical import write_json
from mmpt.store.errors import UserError


@pytest.fixture(scope="module")
def released(run):
    run.build_release()
    return run


def test_the_release_names_what_judged_it(released):
    folder = released.data("release")
    stated = json.loads((folder / "RELEASE.json").read_bytes())
    assert stated["step"] == "step_4" and stated["decision"] == {}  # the build grants it, not the stage
    assert set(stated["judged"]) == set(rel.MEASURED)
    assert set(stated["judged"].values()) == {stated["adapter_sha256"]}
    assert rel.release_problems(released.root) == []


def copied(released, tmp_path, stage):
    shutil.copytree(released.data(stage), tmp_path / stage)
    return tmp_path / stage


def test_an_untrained_adapter_is_not_released(released, tmp_path, monkeypatch):
    """Red team: release.py took `initial`, and everything was as published."""
    other = copied(released, tmp_path, "staged_export")
    first = released.data("train") / "checkpoints" / "step_0"
    shutil.copyfile(first / rel.ADAPTER, other / "export" / "adapter" / rel.ADAPTER)
    context = released.context("release", tmp_path / "out" / "data", staged_export=other)
    with pytest.raises(UserError, match="not the one that was judged"):
        release(context)


@pytest.mark.parametrize("gate", ["B3", "C1", "R1", "Q1", "C3"])
def test_a_measurement_of_another_adapter_is_seen(released, tmp_path, gate):
    stage, name = rel.MEASURED[gate]
    other = copied(released, tmp_path, stage)
    path = other / "evidence" / f"{gate}.json"
    evidence = json.loads(path.read_bytes())
    evidence["subject"][name] = "0" * 64
    write_json(path, evidence)
    context = released.context("release", tmp_path / "out" / "data", **{stage: other})
    with pytest.raises(UserError, match=gate):
        release(context)


@pytest.mark.parametrize("change", ["adapter", "export", "gone"])
def test_a_release_that_was_changed_afterwards_is_seen(released, tmp_path, change):
    root = tmp_path / "artifacts"
    shutil.copytree(released.root, root, symlinks=True)
    adapter = root / "release" / "data" / "adapter" / rel.ADAPTER
    if change == "adapter":
        shutil.copyfile(root / "train" / "data" / "checkpoints" / "step_0" / rel.ADAPTER, adapter)
    elif change == "export":
        (root / "staged_export" / "data" / "export" / "grammar.json").write_text("{}")
    else:
        adapter.unlink()
    assert len(rel.release_problems(root)) == 1
