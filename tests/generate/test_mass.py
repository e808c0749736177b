"""Which positions legal mass is measured at, and that a long output's is the mean over exactly those."""

import numpy as np
import pytest
import torch

from mmpt.generate import generate
from mmpt.generate.mass import POSITIONS, is_open, measured, most_measured
from mmpt.tokens import grammar, prompt


@pytest.mark.parametrize("steps", [1, POSITIONS, POSITIONS + 1, 100, 257, 3000, 6600])
def test_the_first_and_about_as_many_as_wanted_are_measured(steps):
    at = measured(steps)
    assert at[0] == 0 and (np.diff(at) > 0).all() and at[-1] < steps
    assert min(steps, POSITIONS - 2) <= len(at) <= most_measured(steps) <= POSITIONS + 2


@pytest.mark.parametrize("period", [2, 3, 4, 8])
@pytest.mark.parametrize("steps", [256, 3000, 6000])
def test_every_codebook_is_measured_about_equally(steps, period):
    counts = np.bincount(measured(steps) % period, minlength=period)
    assert counts.min() >= 0.5 * POSITIONS / period and counts.max() <= 2 * POSITIONS / period


def test_measured_positions_lie_evenly():
    quarters = np.bincount(measured(3000) * 4 // 3000)
    assert quarters.min() >= POSITIONS // 4 - 2 and quarters.max() <= POSITIONS // 4 + 2


def test_a_long_outputs_mass_is_the_mean_over_its_measured_positions(model, space):
    rules = grammar(space, "t2a", frames=30)
    given = prompt(space, "t2a", np.arange(5))
    output = generate(model, [given], [rules])[0]
    whole = torch.as_tensor(np.concatenate([given, output.ids]).astype(np.int64))[None]
    shares = model.lm(whole).logits.detach()[0, len(given) - 1 : -1].softmax(-1)
    every = [float(shares[p, rules.lo[p] : rules.hi[p]].sum()) for p in range(90)]
    at = measured(90)
    assert len(at) < 40
    assert output.legal_mass == pytest.approx(np.mean([every[p] for p in at]), abs=1e-6)
    assert output.legal_mass != pytest.approx(np.mean(every), abs=1e-6)


def test_only_a_grammar_without_rules_is_open(space):
    from mmpt.generate import opened

    rules = grammar(space, "t2i", tokens_per_image=4)
    assert not is_open(rules, space.vocab_size_total)
    assert is_open(opened(rules, space.vocab_size_total), space.vocab_size_total)
