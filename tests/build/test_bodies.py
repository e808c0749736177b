"""What surrounds a body in its process, and the one body that the build itself has."""

import errno
import json
import random
import re

import numpy
import pytest

from mmpt.build.declaration import by_name
from mmpt.build.receipts import check_outputs
from mmpt.build.stage_table import STAGES
from mmpt.gating.judged import MEASURED
from mmpt.launch.process_setup import disk_fault, undisturbed
from mmpt.stages.release import release
from mmpt.store.canonical import read_json, write_json
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError
from mmpt.store.stage import SliceView, StageContext
from mmpt.tokens.space import build_token_space
from tests.gating.gate_evidence import fixture

SPACE = json.dumps(
    build_token_space(
        base_text_model="tiny", text_vocab_size=20, n_special=16, image_tokenizer=None, audio_codec=None
    ).to_json()
)


def test_a_hook_that_draws_random_numbers_leaves_the_training_run_alone():
    import torch

    def drawn():
        return random.random(), float(numpy.random.rand()), float(torch.rand(()))

    def states():
        random.seed(1), numpy.random.seed(1), torch.manual_seed(1)

    calls = []
    states()
    expected = drawn()
    states()
    undisturbed(lambda step, folder: calls.append((step, drawn())))(3, None)
    assert drawn() == expected and calls[0][0] == 3
    assert undisturbed(None) is None


def wrapped(error: Exception) -> Exception:
    try:
        try:
            raise error
        except type(error) as inner:
            raise RuntimeError("saving failed") from inner
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    "error, full",
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (wrapped(OSError(errno.ENOSPC, "x")), True),
        (ValueError("I/O error: No space left on device (os error 28)"), True),  # as safetensors says it
        (OSError(errno.EACCES, "x"), False),
        (wrapped(ValueError("x")), False),
    ],
)
def test_a_full_disk_is_known_however_it_is_wrapped(error, full):
    assert disk_fault(error).startswith("the disk is full: ") is full


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, "Input/output error"), "the disk or its network fails: .*; look at dmesg or the mount"),
        (wrapped(OSError(errno.ESTALE, "Stale file handle", "f")), "the disk or its network fails: .*Stale.*'f'"),
        (OSError(errno.ENOTCONN, "x", "fuse/f"), "the disk or its network fails"),
        (OSError(errno.EROFS, "x", "f"), "a file may not be read or written"),
        (OSError(errno.EACCES, "x", "f"), "a file may not be read or written: .*'f'; look at its mode"),
        (OSError(errno.EMFILE, "x"), "too many files are open: .*; raise `ulimit -n`"),
        (OSError(errno.ENOTCONN, "a socket"), "^$"),
        (OSError(errno.EACCES, "no file"), "^$"),
        (OSError(errno.ENOENT, "x", "f"), "^$"),
    ],
)
def test_a_disk_that_fails_is_known(error, said):
    assert re.search(said, disk_fault(error))


GRANTED = {
    "headline": "GO",
    "softenings": [],
    "waivers": [],
    **{f"{name}_sha256": "c" * 64 for name in ("profile", "policy", "softenings", "waivers")},
}


@pytest.fixture
def context(tmp_path):
    """Inputs of stage release: a final checkpoint with state beside the adapter, its staged export, the evidence of the
    gates that judged it, a token space, a base.
    """
    final = tmp_path / "train" / "checkpoints" / "step_20"
    for path, text in (
        (final / "adapter_config.json", "{}"),
        (final / "adapter_model.safetensors", "weights"),
        (final / "trainer_state.safetensors", "optimizer"),
        (tmp_path / "token_space" / "token_space.json", SPACE),
        (tmp_path / "token_space" / "token_space.sha256", f"{'a' * 64}  token_space.json\n"),
        (tmp_path / "base" / "model" / "config.json", "{}"),
        (tmp_path / "staged_export" / "export" / "adapter" / "adapter_config.json", "{}"),
        (tmp_path / "staged_export" / "export" / "adapter" / "adapter_model.safetensors", "weights"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write_json(tmp_path / "train" / "checkpoints.json", {"final": "step_20"})
    judged = sha256_file(final / "adapter_model.safetensors")
    for gate, (stage, name) in MEASURED.items():
        path = tmp_path / stage / "evidence" / f"{gate}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**fixture(gate, "good"), "subject": {name: judged}})
    (tmp_path / "out").mkdir()
    inputs = {name: tmp_path / name for name in by_name(STAGES)["release"].inputs}
    profile = SliceView({"name": "mine"}, ("name",), "release")
    return StageContext("release", profile, inputs, tmp_path / "out", tmp_path / "work", granted=GRANTED)


def test_a_release_holds_the_adapter_and_names_it_by_digest(context):
    release(context)
    files = sorted(path.relative_to(context.out).as_posix() for path in context.out.rglob("*") if path.is_file())
    assert "adapter/adapter_model.safetensors" in files and "adapter/trainer_state.safetensors" not in files
    said = read_json(context.out / "RELEASE.json")
    assert said["decision"] == GRANTED
    assert said["step"] == "step_20" and said["token_space_sha256"] == "a" * 64 and said["profile"] == "mine"
    assert said["files"] == {name: sha256_file(context.out / name) for name in files if name != "RELEASE.json"}


def test_a_release_is_what_the_table_says(context):
    stage = by_name(STAGES)["release"]
    release(context)
    check_outputs(stage, context.out)


def test_a_release_without_an_adapter_is_refused(context):
    for path in (context.inputs["train"] / "checkpoints" / "step_20").glob("adapter_*"):
        path.unlink()
    with pytest.raises(UserError, match="no adapter"):
        release(context)


def test_a_release_of_another_adapter_than_the_judged_one_is_refused(context):
    (context.inputs["staged_export"] / "export" / "adapter" / "adapter_model.safetensors").write_text("untrained")
    with pytest.raises(UserError, match="not the one that was judged"):
        release(context)
