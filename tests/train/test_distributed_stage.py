"""Stage train over two workers of torchrun: what one process publishes, to rounding."""

import json

import pytest
import torch

from mmpt.launch import launch
from mmpt.launch.process_setup import ProcessSetup
from mmpt.store.launcher import Launcher
from mmpt.store.tensors import load_tensors
from tests.train.test_train_stages import STEPS, Pipeline, tree

SPREAD = {
    "two": Launcher("torchrun", processes=2),
    "split": Launcher("torchrun", processes=2, shard_base=True),
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    made = Pipeline(tmp_path_factory.mktemp("spread"))
    made.profile["train"] = {**made.profile["train"], "micro_rows": 1}
    for stage in ("base", "warmup", "train"):
        made.run(stage)
    return made


@pytest.mark.slow  # a minute: torchrun and its workers start twice
@pytest.mark.parametrize("name", SPREAD)
def test_two_workers_publish_what_one_process_does(pipeline, name):
    def spread(ctx):
        ctx.launcher = SPREAD[name]
        ctx.on_spread = lambda part, each: launch(ctx, part, each, ProcessSetup(torch=True))

    lines = []
    folder = pipeline.run("train", f"train-{name}", on_log=lines.append, adjust=spread)
    alone = pipeline.root / "train"
    assert tree(folder).keys() == tree(alone).keys()
    for a, b in zip(*(rows(one) for one in (folder, alone)), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6) and a["tokens"] == b["tokens"]
    weights = f"checkpoints/step_{STEPS}/adapter_model.safetensors"
    ours, theirs = (load_tensors(one / weights, "torch") for one in (folder, alone))
    assert ours.keys() == theirs.keys()
    val = [json.loads((one / "checkpoints.json").read_bytes())["val_loss"] for one in (folder, alone)]
    for step, losses in val[0].items():
        assert losses == pytest.approx(val[1][step], rel=1e-5)
    assert not [line for line in lines if line.startswith("step ")]  # all of it was the workers'


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow  # half a minute: torchrun and its workers start twice
@pytest.mark.parametrize("name", SPREAD)
def test_two_workers_warm_up_as_one_process_does(pipeline, name):
    def spread(ctx):
        ctx.launcher = SPREAD[name]
        ctx.on_spread = lambda part, each: launch(ctx, part, each, ProcessSetup(torch=True))

    folder, alone = pipeline.run("warmup", f"warmup-{name}", adjust=spread), pipeline.root / "warmup"
    assert tree(folder).keys() == tree(alone).keys()
    for a, b in zip(*(rows(one) for one in (folder, alone)), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6) and a["tokens"] == b["tokens"]
    ours, theirs = (load_tensors(one / "checkpoint/adapter_model.safetensors", "torch") for one in (folder, alone))
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5)
