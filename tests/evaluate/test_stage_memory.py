"""GPU memory of the stages of a small run: all that compute are there, and sizes follow what decides them."""

import copy
import gc
from dataclasses import replace

import pytest

from mmpt.build.stage_table import STAGES
from mmpt.codecs import networks
from mmpt.codecs.llamagen_modules import VqModel
from mmpt.evaluate import trainable
from mmpt.evaluate.fitting import counting_of
from mmpt.evaluate.stage_memory import StageMemory
from mmpt.model.meta import PeakMemory, as_on_cuda
from mmpt.train.fit import Device, plan_of
from mmpt.train.fit_measure import settings_of
from mmpt.train.footprint import CONTEXT_BYTES
from mmpt.train.schedule import optimizer_of
from tests.codecs.small_weights import LLAMAGEN
from tests.evaluate.judge_files import write_clap, write_clip

H100 = Device("h100", "cuda", 80 << 30, False, 350.0)


def counted(run, **changes):
    """By (first stage, doing's first word): StageMemory of the mini profile; changes: by dotted key."""
    data = copy.deepcopy(dict(run.profile.data))
    for dotted, value in changes.items():
        section, key = dotted.split("__")
        data[section][key] = value
    return {(one.stages[0], one.doing.split()[1]): one for one in counting_of(plan_of(run.root, data, H100)).stages()}


@pytest.fixture(scope="module")
def plain(run):
    return counted(run)


def test_every_stage_that_runs_the_model_is_counted(plain):
    computing = {stage.name for stage in STAGES if stage.torch} - {"extension", "base"}
    counted_stages = {name for one in plain.values() for name in one.stages}
    assert counted_stages == computing
    assert all(one.total > one.peak > one.weights for one in plain.values())
    assert all(one.weights for one in plain.values() if one.stages != ("kernels",))


@pytest.fixture(scope="module")
def counting(run):
    return counting_of(plan_of(run.root, run.profile.data, H100))


def media_stages(counting, codecs, scores=None):
    """(counting, by stage: StageMemory) of what runs codecs and judges alone."""
    data = {**counting.data, "codecs": codecs, "evaluate": {**counting.data["evaluate"], "scores": scores or {}}}
    counting = replace(counting, data=data)
    with as_on_cuda(), PeakMemory() as memory:

        def peak(stages, doing, run_, models=0):
            gc.collect()
            memory.restart()
            run_()
            return StageMemory(stages, doing, 0, memory.peak)

        return counting, {one.stages[0]: one for one in counting._media(peak)}


def test_stages_hold_the_networks_of_codecs(run, counting, monkeypatch):
    monkeypatch.setattr(networks, "LLAMAGEN", LLAMAGEN)
    llamagen = {"name": "llamagen", "path": "nothing is there", "size": 32}
    weights = sum(4 * one.numel() for one in VqModel(LLAMAGEN).parameters())
    _, found = media_stages(counting, {"image": llamagen})
    assert set(found) == {"codecs", "shards", "shard_audit", "preflight"}
    assert found["codecs"].peak > 2 * weights + CONTEXT_BYTES["cuda"]  # another process holds a context too
    assert weights < found["preflight"].peak < found["shards"].peak <= found["shard_audit"].peak
    own, found = media_stages(counting, run.profile.data["codecs"])
    assert not found and not own.uncounted()  # these codecs are no networks
    own, _ = media_stages(counting, {"audio": {"name": "theirs", "clip_seconds": 1.0}})
    assert own.uncounted() == ["the networks of audio codec theirs"]


def test_judges_are_counted_where_the_profile_asks_for_them(counting, tmp_path):
    for name in ("clip", "clap"):
        (tmp_path / name).mkdir()
    write_clip(tmp_path / "clip"), write_clap(tmp_path / "clap")
    asked = {name: {"path": str(tmp_path / name)} for name in ("clip", "clap")}
    for name in asked:
        _, found = media_stages(counting, {}, {name: asked[name]})
        size = (tmp_path / name / "model.safetensors").stat().st_size
        assert found["scores"].peak > 0.9 * size and found["scores"].doing.endswith(name.upper())


def test_a_save_holds_two_models(plain):
    save, step = plain["train", "save:"], plain["train", "training"]
    assert save.weights == 2 * step.weights and save.peak > save.weights


def of_stage(found, stage):
    return next(one for (name, _), one in found.items() if name == stage)


def test_checkpointed_activations_and_fewer_outputs_at_once_take_less(run, plain):
    less = counted(run, train__activation_checkpointing=True, generate__batch_size=2)
    for key in (("warmup", "training"), ("preflight", "step"), ("train", "training")):
        assert less[key].peak < plain[key].peak
    assert of_stage(less, "generate").peak < of_stage(plain, "generate").peak
    assert less["text_regression", "batch"].peak == plain["text_regression", "batch"].peak  # it runs neither


def test_two_pieces_of_the_probe_take_what_all_take(run, counting, monkeypatch):
    """What `doit fit` counts is the peak of the whole step."""
    monkeypatch.setattr(trainable, "ROW", 16)
    monkeypatch.setattr(trainable, "PIECE_ROWS", 1)
    peaks = []
    for most in (2, None):
        with as_on_cuda(), PeakMemory() as memory:
            model = counting._model()
            trainable.probe_step(model, optimizer_of(model, settings_of(run.profile.data)), most_pieces=most)
        peaks.append(memory.peak)
    assert len(trainable.probe_rows(model.space)) > 4 and peaks[0] == peaks[1]
