"""Opening a checkpoint: the model it gives, what it leaves alone, and decoding on it against transformers."""

import weakref

import numpy as np
import pytest
import torch

from mmpt.evaluate.checkpoint import EvalContext, Trained, step_of
from mmpt.evaluate.sets import golden_sets, record_grammar, record_prompt
from mmpt.generate import generate
from mmpt.stages.ablation import ablation
from mmpt.store.errors import UserError
from mmpt.tokens import TASKS, check, grammar
from tests.generate.plain_decoder import as_causal_lm, reference_generate


def test_trained_names_its_checkpoints(run):
    trained = run.trained()
    assert (trained.initial, trained.final, trained.saved) == (0, 4, (0, 2, 4))
    assert trained.named("step_2") == run.data("train") / "checkpoints" / "step_2"
    with pytest.raises(UserError, match="step_0, step_2, step_4"):
        trained.named("step_3")
    with pytest.raises(UserError, match="step_<number>"):
        step_of("final")
    assert Trained.of(run.data("train")) == trained


def test_opening_leaves_random_state_and_checkpoint_alone(run):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with run.workshop().opened(run.trained().path(4)) as model:
        assert not model.training
    assert torch.equal(torch.rand(3), expected)


def test_checkpoints_differ_and_step_0_is_the_warm_up(run):
    def logits(folder):
        with run.workshop().opened(folder) as model:
            ids = torch.arange(5, 25)[None]
            return model.logits(model.hidden(ids))

    first, last = logits(run.trained().path(0)), logits(run.trained().path(4))
    assert torch.equal(first, logits(run.data("warmup") / "checkpoint"))
    assert not torch.equal(first, last)


@pytest.mark.parametrize("task", TASKS)
def test_decoding_a_trained_model_agrees_with_transformers(run, task):
    space = run.workshop().space
    records = golden_sets(run.data("golden"))[task]
    with run.workshop().opened(run.trained().path(4)) as model:
        with torch.no_grad():  # larger LoRA and rows: an output that depends on more than the last id
            for parameter in model.adapter_parameters().values():
                parameter.mul_(3.0)
        prompts = [record_prompt(space, record) for record in records]
        grammars = [record_grammar(space, record, 9) for record in records]
        if task == "t2a":
            grammars = [g if i % 2 else grammar(space, task, frames=(1, 12)) for i, g in enumerate(grammars)]
        ours = generate(model, prompts, grammars)
        theirs = reference_generate(as_causal_lm(model), prompts, grammars, pad_id=space.special("pad_mm"))
    for mine, yours, rules in zip(ours, theirs, grammars, strict=True):
        check(rules, mine.ids)
        assert np.array_equal(mine.ids, yours.ids) and mine.ended == yours.ended


def test_ablation_holds_one_model_at_a_time(run, tmp_path, monkeypatch):
    """Two bases of Qwen3-8B are 31 GiB, which `doit fit` does not count there."""
    run.build("generate")
    models, alive, untrained = [], [], EvalContext.untrained

    def counted(self, *given):
        made = untrained(self, *given)
        alive.append(sum(one() is not None for one in models))
        models.append(weakref.ref(made))
        return made

    monkeypatch.setattr(EvalContext, "untrained", counted)
    ablation(run.context("ablation", tmp_path / "ablation"))
    assert alive and not any(alive)
