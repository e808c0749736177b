"""Steps that nobody looks at: none waits for the device, and looking later changes nothing."""

import importlib

import pytest
import torch

from mmpt.model.checkpoints import STATE
from mmpt.store.jsonl import read_jsonl
from mmpt.store.tensors import load_tensors
from mmpt.train import loop
from mmpt.train.distributed import Ranks
from mmpt.train.divergence_guard import DivergenceGuard
from mmpt.train.loop import METRICS, train
from mmpt.train.monitors import ENOUGH, WINDOW, Monitors
from tests.train.small_run import fresh, small_loader, small_settings


def test_a_step_runs_on_a_device_that_nobody_can_read(tmp_path, monkeypatch):
    """On "meta" a number does not exist: reading one is an error."""
    adam = importlib.import_module("torch.optim.adam")  # it refuses a device without a fused kernel
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_, **__: None)
    model = fresh(tmp_path / "base", dropout=0.1, tied=False).to("meta").train()
    settings = small_settings(40, micro_rows=2)
    loader, alone = small_loader(model.space, 40), Ranks.alone()
    run = loop._before(model, loader, settings, tmp_path / "run", loop.Hooks(), alone)
    for step in range(ENOUGH + 1):
        loop._one_step(run, loop._lay(run, step), None)
    assert len(run.unseen) == run.step == run.watch.seen == ENOUGH + 1  # the median was asked for, too
    with pytest.raises(NotImplementedError, match="meta"):
        loop._look(run)


def trained(root, name, spoil, monkeypatch, *, every_step=False, steps=24, dropout=0.1, **changes):
    """A run whose gradients `spoil(call, model)` may change, looked at when it is due or at every step."""
    calls = []

    def spoilt(model, *rest):
        tally = RIGHT(model, *rest)
        spoil(len(calls), model)
        calls.append(1)
        return tally

    with monkeypatch.context() as patch:
        patch.setattr(loop, "backward", spoilt)
        if every_step:
            step = loop._one_step
            patch.setattr(loop, "_one_step", lambda *given: (step(*given), loop._look(given[0]))[0])
        model = fresh(root / f"base-{name}", dropout=dropout)
        settings = small_settings(steps, log_every=6, save_every=9, **changes)
        outcome = train(model, small_loader(model.space, steps), settings, root / name)
    return outcome, len(calls)


RIGHT = loop.backward


def nan_at(wanted):
    def spoil(call, model):
        if call == wanted:
            model.embedding.rows.grad[3] = torch.nan

    return spoil


def burst_at(wanted):
    def spoil(call, model):
        if call == wanted:
            for parameter in model.adapter_parameters().values():
                parameter.grad *= 1e4

    return spoil


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    "spoil, at, words",
    [
        (nan_at(0), 0, "gradient norm nan"),
        (nan_at(7), 7, "gradient norm nan"),
        (burst_at(13), 13, "times its running median"),
        (burst_at(4), None, None),  # before there is a median
    ],
)
def test_a_run_ends_as_if_every_step_had_been_looked_at(tmp_path, monkeypatch, spoil, at, words):
    late, calls = trained(tmp_path, "late", spoil, monkeypatch)
    soon, at_once = trained(tmp_path, "soon", spoil, monkeypatch, every_step=True)
    assert files(tmp_path / "late") == files(tmp_path / "soon")
    assert late == soon and late.step == (24 if at is None else at)
    assert late.stopped is None if words is None else words in late.stopped
    if at is not None:
        assert at_once == at + 1 < calls  # the later steps were made, and undone


def test_a_stopped_run_holds_the_weights_and_moments_from_before_the_step(tmp_path, monkeypatch):
    stopped, _ = trained(tmp_path, "stopped", burst_at(13), monkeypatch)
    model, settings = fresh(tmp_path / "base", dropout=0.1), small_settings(24, log_every=6, save_every=9)
    train(model, small_loader(model.space, 24), settings, tmp_path / "cut", until=13)
    name = "adapter_model.safetensors"
    one, two = (tmp_path / run / "steps" / "step_13" for run in ("stopped", "cut"))
    assert (one / name).read_bytes() == (two / name).read_bytes()
    tensors = [load_tensors(folder / STATE, "torch") for folder in (one, two)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])
    assert read_jsonl(tmp_path / "stopped" / METRICS) == read_jsonl(tmp_path / "cut" / METRICS)
    assert stopped.monitors.judged_steps == 4 and stopped.monitors.worst_grad_ratio > 100


@pytest.mark.parametrize("resumed", [0, 7, 130])
def test_the_watch_says_what_the_monitors_say(resumed):
    """Step by step over calm and stormy norms, also from the state of a run that goes on."""
    generator = torch.Generator().manual_seed(resumed)
    norms = torch.randn(3 * WINDOW, generator=generator, dtype=torch.float64).exp()
    norms[::37] *= 15
    norms[250] *= 1e5
    monitors = Monitors(start=20)
    for step in range(resumed):
        monitors.after_backward(step, 1.0, 1.0 + step % 7, 5.0)
    watch, said = DivergenceGuard(monitors, torch.device("cpu")), []
    for step, norm in enumerate(norms, resumed):
        watch.judge(step, torch.tensor(1.0, dtype=torch.float64), norm)
        said.append((bool(watch.stopped), monitors.after_backward(step, 1.0, float(norm), 5.0) is not None))
        if any(said[-1]):
            break
    assert all(one == two for one, two in said) and said[-1] == (True, True) and len(said) > 15
