"""The trend: an evaluation is computed once, found again by what it depends on, and does not disturb
training.
"""

import pytest
import torch

from mmpt.evaluate import trend
from mmpt.evaluate.checkpoint import EvalContext
from mmpt.store.canonical import read_json


@pytest.fixture()
def context(run, tmp_path):
    made = run.context("trend", tmp_path / "trend" / "data")
    made.external["evaluations"] = tmp_path / "evaluations"
    return made


def test_the_hook_fills_what_the_stage_collects(run, context, monkeypatch):
    from mmpt.stages.trend import trend as stage

    trained, hook = run.trained(), trend.at_save(context)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    for step in trained.saved:
        hook(step, trained.path(step))
    assert torch.equal(torch.rand(2), expected)
    monkeypatch.setattr(EvalContext, "opened", lambda *_: pytest.fail("evaluated twice"))
    stage(context)
    assert (context.out / "qual" / "step_2" / "step_2_golden_t2i.jsonl").is_file()
    assert len(list((context.out / "qual" / "step_4").rglob("*.wav"))) == 2


def test_the_key_follows_checkpoint_settings_and_code(run, context, monkeypatch):
    watch, trained = trend.TrendEvaluator.of(context), run.trained()
    key = watch.key(trained.path(4))
    assert key == trend.TrendEvaluator.of(context).key(trained.path(4))
    assert key != watch.key(trained.path(2))
    monkeypatch.setattr(trend, "code_digest", lambda: "other")
    assert key != watch.key(trained.path(4))


def test_a_torn_evaluation_is_not_taken(run, context):
    watch, checkpoint = trend.TrendEvaluator.of(context), run.trained().path(2)
    torn = watch.cache / watch.key(checkpoint)
    (torn / "qual").mkdir(parents=True)
    folder = trend.evaluated(watch, 2, checkpoint)
    assert folder == torn and read_json(folder / "trend.json")["step"] == 2


def test_without_golden_sets_there_is_no_hook(run):
    context = run.context("trend")
    del context.inputs["golden"]
    assert trend.at_save(context) is None
