"""`doit fit` beside a built run: it counts what the stages then found; its report, as text and as JSON."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmpt.build.fit_lines import fit_lines
from mmpt.evaluate.fitting import chosen_profile, fit_report, given_of
from mmpt.profile import load_profile
from mmpt.profile.writing import write_profile
from mmpt.shards.example_set import ExampleSet
from mmpt.shards.fitting import Given
from mmpt.shards.shard_set import ShardSet
from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError
from mmpt.store.schema import validate
from mmpt.tokens import load
from mmpt.train.fit import Device, device_of, fit, plan_of

H100 = Device("h100", "cuda", 80 << 30, False, 350.0)


@pytest.fixture(scope="module")
def report(run):
    return fit_report(run.root, run.profile, H100)


def test_lengths_and_drops_are_those_of_the_built_stages(run, report):
    drops = read_json(run.data("examples") / "drops.json")["by_split"]["train"]
    space = load(run.data("token_space"))
    for task, one in report["tasks"].items():
        made = ExampleSet.open(run.data("examples"), run.data("shards"), space, task, "train")
        assert (one["kept"], one["longest"]) == (drops[task]["kept"], int(made.lengths.max()))
        assert one["mean"] == pytest.approx(float(made.lengths.mean()))
    assert not any("assumed" in line for line in report["basis"])


def test_sounds_have_the_tokens_that_the_shards_have(run):
    plan = plan_of(run.root, run.profile.data, H100)
    shards = ShardSet.open(run.data("shards"), "audio", "train")
    clip = run.profile.data["codecs"]["audio"]["clip_seconds"]
    payloads = plan.corpus.payloads(plan.audio, plan.image, clip)
    assert np.array_equal(np.sort(payloads["audio"]), np.sort(shards.lengths))


def test_the_report_holds_its_schema_and_prints(report):
    document = {"schema": "command/1", "command": "fit", "profile": "mini", "exit_code": 0, "result": report}
    validate(json.loads(json.dumps(document)), "commands", where="fit --json")
    text = "\n".join(fit_lines(report))
    assert "the built base" in text and "captions: counted" in text
    assert "train: {row_len:" in text and "operations, 350 TFLOP/s sustained assumed" in text
    assert "every stage fits into 80.0 GiB" in text and "resume_check" in text
    assert report["proposals"][0]["fits"] and max(report["proposals"][0]["dropped"].values()) <= 0.001


def test_a_device_that_is_too_small_is_said_to_be(run):
    small = fit(run.root, run.profile, Device("small", "cuda", 1 << 20, False, 1.0))
    text = "\n".join(fit_lines(small))
    assert not small["now"]["fits"] and "DOES NOT FIT" in text and "nothing fits" in text


def test_rows_that_are_too_short_show_what_is_lost(run, tmp_path):
    short = tmp_path / "short.yaml"
    short.write_text("extends: smoke\nname: short\nexamples: {max_seq_len: 24}\n")
    found = fit(tmp_path / "nothing", load_profile(str(short)), H100)
    assert found["tasks"]["a2t"]["dropped"] == 1.0 and sum("assumed" in line for line in found["basis"]) == 3
    assert "would not be trained at all" in "\n".join(fit_lines(found))


@pytest.mark.parametrize(
    ("given", "said"),
    [(("h1000", None, None), "unknown GPU"), ((None, 80.0, None), "half a device")],
)
def test_wrong_devices(run, given, said):
    with pytest.raises(UserError, match=said):
        device_of(run.profile, *given)


def test_a_profile_for_cuda_needs_one_or_a_name(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="--gpu h100"):
        device_of(load_profile("trial"), None, None, None)
    found = device_of(load_profile("trial"), "h100", None, None)
    assert found.memory == 80 << 30 and found.kind == "cuda" and not found.timed


BIG = """
extends: smoke
name: big
runtime: {device: cuda, dtype: bfloat16}
base: {kind: pretrained, path: Qwen3-8B}
launcher: {kind: torchrun}
"""


def test_a_base_that_is_too_large_for_one_gpu_is_split_over_eight(tmp_path):
    (tmp_path / "big.yaml").write_text(BIG)
    profile = load_profile(str(tmp_path / "big.yaml"))
    with pytest.raises(UserError, match="how many GPUs"):
        device_of(profile, "l40s", None, None)
    small, large = (device_of(profile, gpu, None, None, 8) for gpu in ("rtx4090", "h200"))
    split, whole = (fit(tmp_path / "nothing", profile, device) for device in (small, large))
    assert split["ranks"] == {"kind": "torchrun", "world": 8, "split": False}
    assert not split["now"]["fits"] and split["proposals"][0]["fits"] and split["proposals"][0]["shard_base"]
    assert whole["now"]["fits"] and not whole["proposals"][0]["shard_base"]
    text = "\n".join(fit_lines(split))
    assert "8 by torchrun, the base whole on each" in text and "launcher: {kind: torchrun, shard_base: true}" in text
    document = {"schema": "command/1", "command": "fit", "profile": "big", "exit_code": 0, "result": split}
    validate(json.loads(json.dumps(document)), "commands", where="fit --json")


NOTHING = Path("nothing is built here")
SHORT = 61  # tokens: every picture of the assumed corpus fits with its caption, the longest sounds do not


def chosen(**given):
    """(report, written profile's data) for what is given of the smoke profile."""
    profile = load_profile("smoke")
    fixed = given_of(NOTHING, profile, **given)
    report = fit(NOTHING, profile, H100, 0, fixed)
    return report, chosen_profile(profile, report, fixed)


@pytest.fixture(scope="module")
def short():
    return chosen(max_seq_len=SHORT)


def test_what_is_given_is_kept_and_the_rest_follows(short):
    report, data = short
    assert data["examples"]["max_seq_len"] == data["train"]["row_len"] == SHORT
    assert {one["max_seq_len"] for one in report["proposals"]} == {SHORT}
    assert max(report["proposals"][0]["dropped"].values()) <= 0.1
    assert any(one["lost"] > 0 or one["n_codebooks"] < 2 for one in report["proposals"])
    assert report["instead"][0]["max_seq_len"] > SHORT and report["instead"][0]["lost"] == 0
    text = "\n".join(fit_lines(report))
    assert f"given    max_seq_len {SHORT} kept" in text and "instead  clips of 1 s" in text


def test_a_written_profile_is_whole_and_drops_what_was_promised(tmp_path, short):
    report, data = short
    path = tmp_path / "shorter.yaml"
    written = write_profile(path, data, ["first line", *fit_lines(report)])
    assert written.name == "shorter" and path.read_text().startswith("# first line\n# model ")
    assert {**data, "name": "shorter"} == written.data  # every key, so that the file stands alone
    again = fit(NOTHING, written, H100)
    assert again["now"]["fits"] and again["now"]["max_seq_len"] == SHORT
    for task, share in report["proposals"][0]["dropped"].items():
        assert again["tasks"][task]["dropped"] == pytest.approx(share)
    with pytest.raises(UserError, match="a file already"):
        write_profile(path, data, [])
    with pytest.raises(UserError, match="ends in .yaml"):
        write_profile(tmp_path / "profile", data, [])


def test_a_choice_that_loses_a_task_is_not_written():
    with pytest.raises(UserError, match="no choice that keeps what is given") as refused:
        chosen(max_seq_len=24, seconds=1.0, n_codebooks=2)
    assert "--max-seq-len" in str(refused.value)


def test_frames_are_a_clip(run):
    given = given_of(run.root, run.profile, frames=10, n_codebooks=2)
    audio = plan_of(run.root, run.profile.data, H100).audio
    assert audio.frames(round(given.seconds * audio.rate)) <= 10
    assert audio.frames(round((given.seconds + 0.1) * audio.rate)) > 10
    with pytest.raises(UserError, match="given twice"):
        given_of(run.root, run.profile, frames=10, seconds=1.0)


def test_a_base_with_fewer_positions_bounds_the_length(run, tmp_path):
    path = tmp_path / "few.yaml"
    path.write_text("extends: smoke\nname: few\nbase: {config: {max_position_embeddings: 64}}\n")
    report = fit(tmp_path / "nothing", load_profile(str(path)), H100)
    assert "MORE THAN THE BASE'S 64 positions" in "\n".join(fit_lines(report))
    assert all(one["max_seq_len"] <= 64 for one in report["proposals"])
    assert fit(tmp_path / "nothing", load_profile(str(path)), H100, 0, Given(max_seq_len=96))["proposals"] == []
