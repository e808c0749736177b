"""Batches made ahead: in order, never more than a few, errors at their step, and no thread is left."""

import threading
import time

import pytest

from mmpt.shards.loader import Loader
from mmpt.store.errors import UserError
from mmpt.train.loop import Hooks, train
from mmpt.train.prefetch import STEPS, Prefetcher
from tests.train.small_run import fresh, small_loader, small_settings


def threads():
    return [one.name for one in threading.enumerate() if one.name.startswith("batches")]


def test_results_come_in_order_and_only_a_few_are_made_ahead():
    made = []

    def make(step):
        made.append((step, threading.current_thread().name))
        return step * step

    with Prefetcher(make, range(3, 12)) as ahead:
        for expected in range(3, 12):
            assert next(ahead) == expected * expected
            time.sleep(0.002)
            assert len(made) <= expected - 3 + 1 + STEPS
        assert list(ahead) == [] and ahead.waited > 0
    assert [step for step, _ in made] == list(range(3, 12))
    assert {name.rsplit("_", 1)[0] for _, name in made} == {"batches"} and not threads()


def test_an_error_comes_at_its_step():
    def make(step):
        if step == 2:
            raise ValueError("of step 2")
        return step

    with pytest.raises(ValueError, match="of step 2"), Prefetcher(make, range(9)) as ahead:
        assert next(ahead) == 0 and next(ahead) == 1
        time.sleep(0.01)
        assert len(threads()) == 1
        next(ahead)
    assert not threads()


def test_a_batch_that_cannot_be_made_ends_the_run_after_the_steps_before_it(tmp_path, monkeypatch):
    right, seen = Loader.at, []

    def at(self, step):
        if step == 5:
            raise UserError("no such batch")
        return right(self, step)

    monkeypatch.setattr(Loader, "at", at)
    model = fresh(tmp_path / "base")
    hooks = Hooks(on_batch=lambda step, batch: seen.append(step))
    with pytest.raises(UserError, match="no such batch"):
        train(model, small_loader(model.space, 9), small_settings(9), tmp_path / "run", hooks)
    assert seen == [0, 1, 2, 3, 4] and not threads()
    assert (tmp_path / "run" / "steps" / "step_4").is_dir()


def test_a_run_leaves_no_thread_and_its_loader_at_the_next_step(tmp_path):
    model = fresh(tmp_path / "base")
    loader, during = small_loader(model.space, 9), []
    hooks = Hooks(on_save=lambda step, folder: during.append((step, loader.next_step, threads())))
    train(model, loader, small_settings(9), tmp_path / "run", hooks, until=6)
    assert not threads() and loader.next_step == 6
    assert [(step, next_step) for step, next_step, _ in during] == [(0, 0), (4, 4), (6, 6)]
    assert during[1][2] == ["batches_0"]
