"""GPU memory of the stages of a small run: all that compute are there, and sizes follow what decides them."""

import copy

import pytest

from mmpt.build.stages import STAGES
from mmpt.evaluate import trainable
from mmpt.evaluate.fitting import counting_of
from mmpt.evaluate.stage_memory import NOT_COUNTED
from mmpt.model.meta import PeakMemory, as_on_cuda
from mmpt.train.fit import Device, plan_of
from mmpt.train.measured import settings_of
from mmpt.train.schedule import optimizer_of

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
    computing = {stage.name for stage in STAGES if stage.torch} - {"extension", "base", *NOT_COUNTED}
    counted_stages = {name for one in plain.values() for name in one.stages}
    assert counted_stages == computing
    assert all(one.total > one.peak > one.weights > 0 for one in plain.values())


def test_a_save_holds_two_models(plain):
    save, step = plain["train", "save:"], plain["train", "training"]
    assert save.weights == 2 * step.weights and save.peak > save.weights


def test_checkpointed_activations_make_every_training_stage_smaller(run, plain):
    less = counted(run, train__activation_checkpointing=True)
    for key in (("warmup", "training"), ("preflight", "step"), ("train", "training")):
        assert less[key].peak < plain[key].peak
    assert of_stage(less, "generate").peak == of_stage(plain, "generate").peak


def of_stage(found, stage):
    return next(one for (name, _), one in found.items() if name == stage)


def test_fewer_outputs_at_once_take_a_smaller_cache(run, plain):
    less = counted(run, generate__batch_size=2)
    assert of_stage(less, "generate").peak < of_stage(plain, "generate").peak


def test_two_pieces_of_the_probe_take_what_all_take(run, monkeypatch):
    """What `doit fit` counts is the peak of the whole step."""
    monkeypatch.setattr(trainable, "ROW", 16)
    monkeypatch.setattr(trainable, "PIECE_ROWS", 1)
    counting, peaks = counting_of(plan_of(run.root, run.profile.data, H100)), []
    for most in (2, None):
        with as_on_cuda(), PeakMemory() as memory:
            model = counting._model()
            trainable.probe_step(model, optimizer_of(model, settings_of(run.profile.data)), most_pieces=most)
        peaks.append(memory.peak)
    assert len(trainable.probe_rows(model.space)) > 4 and peaks[0] == peaks[1]
