"""The loop: resuming is exact, kills lose nothing, divergence stops it, nothing else is touched."""

import itertools
import json
import os
import signal

import pytest
import torch

from mmpt.model import checkpoints
from mmpt.store.errors import UserError
from mmpt.store.schema import validate
from mmpt.train import loop
from mmpt.train.interruption import Interruption
from mmpt.train.loop import METRICS, Hooks, Interrupted, train
from mmpt.train.schedule import rate
from tests.killed_fork import dies
from tests.train.small_run import fresh, small_loader, small_settings

STEPS = 9


def run(root, name, *, steps=STEPS, until=None, hooks=None, settings=None, model=None, seed=0, dropout=0.1):
    model = model or fresh(root / f"base-{name}", dropout=dropout)
    torch.manual_seed(11)
    loader = small_loader(model.space, steps, seed=seed, ramp=0.2)
    outcome = train(model, loader, settings or small_settings(steps), root / name, hooks or Hooks(), until=until)
    return model, outcome


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("cut", [1, 5])
def test_n_plus_m_steps_equal_n_then_m_in_a_new_run(tmp_path, cut):
    """Also where the cut falls inside a log interval: with dropout, all files of the last checkpoint are
    equal.
    """
    straight, _ = run(tmp_path, "straight")
    run(tmp_path, "parts", until=cut)
    parts, outcome = run(tmp_path, "parts")
    assert outcome.step == STEPS
    for key, parameter in straight.adapter_parameters().items():
        assert torch.equal(parameter, parts.adapter_parameters()[key])
    assert (tmp_path / "straight" / METRICS).read_bytes() == (tmp_path / "parts" / METRICS).read_bytes()
    a, b = (tmp_path / name / "steps" / f"step_{STEPS}" for name in ("straight", "parts"))
    assert (a / "adapter_model.safetensors").read_bytes() == (b / "adapter_model.safetensors").read_bytes()


def test_a_killed_process_goes_on_to_the_same_bytes(tmp_path, one_thread):
    """kill -9 after a save and some steps, then the same again: the folder is that of a run never cut."""

    def die(row):
        if row["step"] == 6:
            os.kill(os.getpid(), signal.SIGKILL)

    run(tmp_path, "whole")
    assert dies(lambda: run(tmp_path, "killed", hooks=Hooks(on_log=die)))
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / METRICS).read_text().splitlines()]
    assert steps == [3, 6]  # the row of step 6 was written, the newest checkpoint is of step 4
    assert checkpoints.latest(tmp_path / "killed" / "steps").name == "step_4"
    run(tmp_path, "killed")
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def test_a_run_that_is_asked_to_end_saves_where_it_is_and_goes_on_to_the_same_bytes(tmp_path, one_thread):
    """In the middle of a log interval, twice; what was saved for that alone is gone in the end."""
    run(tmp_path, "whole")
    batches = []
    for step in (2, 5):
        hooks = Hooks(on_batch=lambda at, _: batches.append(at), asked_to_end=lambda step=step: batches[-1] == step - 1)
        with pytest.raises(Interrupted):
            run(tmp_path, "asked", hooks=hooks)
        assert checkpoints.latest(tmp_path / "asked" / "steps").name == f"step_{step}"
    assert batches == [0, 1, 2, 3, 4], "the second part began where the first one ended"
    _, outcome = run(tmp_path, "asked")
    assert outcome.saved == [0, 4, 8, 9] and tree(tmp_path / "asked") == tree(tmp_path / "whole")


def test_sigterm_is_noted_inside_and_ends_the_process_behind():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGTERM)
            os.write(writer, b"asked" if interruption.asked else b"not")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.read(reader, 9) == b"asked" and os.WTERMSIG(status) == signal.SIGTERM


def test_a_death_while_saving_loses_only_that_save(tmp_path, monkeypatch):
    run(tmp_path, "whole")

    def die(staging, final):
        if final.name == "step_8":
            raise KeyboardInterrupt
        return right(staging, final)

    right = checkpoints.publish_folder
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "publish_folder", die)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "parts")
    with open(tmp_path / "parts" / METRICS, "ab") as stream:
        stream.write(b'{"step":9,"lo')  # a torn line
    run(tmp_path, "parts")
    assert tree(tmp_path / "whole") == tree(tmp_path / "parts")


def test_only_the_newest_checkpoint_keeps_the_trainer_state(tmp_path):
    saves = []
    _, outcome = run(tmp_path, "run", hooks=Hooks(on_save=lambda step, folder: saves.append((step, folder.name))))
    assert outcome.saved == [0, 4, 8, 9] and saves == [(s, f"step_{s}") for s in outcome.saved]
    with_state = [p.parent.name for p in (tmp_path / "run").rglob(checkpoints.STATE)]
    assert with_state == ["step_9"]


def test_hooks_cannot_change_the_run(tmp_path):
    def disturb(*args):
        torch.rand(1000)
        return {"x": float(torch.rand(1))}

    run(tmp_path, "plain")
    disturbed = Hooks(on_save=disturb, measure=disturb, measure_at=(2,))
    _, outcome = run(tmp_path, "disturbed", hooks=disturbed)
    assert sorted(map(int, outcome.measured)) == [0, 2, 4, 8, 9]
    name = "steps/step_9/adapter_model.safetensors"
    assert tree(tmp_path / "plain")[name] == tree(tmp_path / "disturbed")[name]


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(settings=small_settings(STEPS, clip=1.0)), "another schedule"),
        (dict(seed=5), "belongs to other data or another mixture"),
    ],
)
def test_going_on_with_other_settings_is_refused(tmp_path, change, words):
    run(tmp_path, "run", until=4)
    with pytest.raises(UserError, match=words):
        run(tmp_path, "run", **change)


def test_a_nan_stops_the_run_before_it_reaches_the_weights_and_still_saves(tmp_path, monkeypatch):
    right, calls = loop.backward, []

    def poisoned(model, *rest):
        out = right(model, *rest)
        calls.append(1)
        if len(calls) == 6:
            model.embedding.rows.grad[3] = torch.nan
        return out

    monkeypatch.setattr(loop, "backward", poisoned)
    model, outcome = run(tmp_path, "run")
    assert outcome.step == 5 and "gradient norm nan" in outcome.stopped and outcome.monitors.nonfinite_steps == 1
    assert outcome.saved == [0, 4, 5] and all(torch.isfinite(p).all() for p in model.adapter_parameters().values())
    calls.clear()
    _, again = run(tmp_path, "run")
    assert again.stopped == outcome.stopped and not calls  # a stopped run stays stopped


def test_losses_are_of_their_interval_alone(tmp_path):
    rows = []
    _, outcome = run(tmp_path, "run", hooks=Hooks(on_log=rows.append), dropout=0.0)
    assert rows == outcome.rows and [row["step"] for row in rows] == [3, 6, 9]
    model = fresh(tmp_path / "other")
    loader = small_loader(model.space, STEPS, ramp=0.2)
    per_step = [loader.batch(step).n_supervised for step in range(STEPS)]
    for index, row in enumerate(rows):
        validate(row, "metric_row", where="row")
        steps = per_step[3 * index : 3 * index + 3]
        for kind in ("a2t", "t2a", "text"):
            assert row[f"supervised_{kind}"] == sum(step.get(kind, 0) for step in steps)
        losses = [(row[f"loss_{k}"], row[f"supervised_{k}"]) for k in ("a2t", "i2t", "t2a", "t2i")]
        mean = sum(loss * n for loss, n in losses if n) / sum(n for _, n in losses)
        assert row["loss"] == pytest.approx(mean, rel=1e-6)
    assert rows[0]["loss_t2a"] is None or rows[0]["supervised_t2a"] < rows[-1]["supervised_t2a"]
    assert {"loss_t2a_cb0", "loss_t2a_cb1", "loss_t2a_end", "loss_t2i_image"} <= set(rows[-1])


def test_it_learns(tmp_path):
    settings = small_settings(40, log_every=10, save_every=100)
    _, outcome = run(tmp_path, "run", steps=40, settings=settings, dropout=0.0)
    assert outcome.rows[-1]["loss_t2i"] < 0.9 * outcome.rows[1]["loss_t2i"]


def test_the_rate_rises_then_falls_to_its_floor():
    settings = small_settings(20, warmup_steps=4, min_lr_ratio=0.1)
    rates = [rate(step, settings) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == 1.0
    assert rates[-1] == pytest.approx(0.1) and all(a >= b for a, b in itertools.pairwise(rates[4:]))


def test_warm_up_moves_rows_and_nothing_else(tmp_path):
    model = fresh(tmp_path / "base")
    model.train_rows_only()
    before = {key: p.clone() for key, p in {**model.adapter_parameters(), **model.frozen()}.items()}
    run(tmp_path, "run", model=model)
    after = {**model.adapter_parameters(), **model.frozen()}
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == {model.row_key("embed")}
