"""Sampled outputs of a faulty decoder are distinguished from those that were drawn as they should be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmpt.evaluate import golden, outputs
from mmpt.evaluate import sampled_outputs as draws
from mmpt.evaluate.golden import DecodingSettings, Wanted, generate_golden
from mmpt.evaluate.sampled_outputs import Filters
from mmpt.evaluate.sets import golden_sets
from mmpt.model.plain import Choices, PlainLM
from tests.gating.gate_evidence import completed, failing, judged

TASKS = ("a2t", "t2a")
SETTING = DecodingSettings(seed=0, max_text_tokens=6)


@pytest.fixture(scope="module")
def measured(run):
    """measured(made)(told): metrics by (name, task) of outputs made under `made` and said to be made under `told`."""
    shop, trained, every = run.workshop(), run.trained(), golden_sets(run.data("golden"))
    sets = {task: every[task] for task in TASKS}
    checkpoint = trained.path(trained.final)
    plain = PlainLM.open(run.data("base") / "model", checkpoint, shop.space)

    def of(made: DecodingSettings = SETTING):
        with shop.opened(checkpoint) as model:
            found = generate_golden(model, shop.space, sets, made, decodings=("sampled",), free=False)
        return lambda told=made: judge(found, told)

    def judge(found, told: DecodingSettings):
        metrics = []
        for task, records in sets.items():
            rows = [{"ids": one.ids.tolist(), "ended": one.ended} for one in found[task, "sampled"].golden]
            asked = outputs.Asked.of(records, run.data("shards"), shop.tokenizer, shop.space)
            guidance = told.guidance if task in outputs.EMIT_TASKS else 1.0
            filters = Filters(top_k=told.top_k, top_p=told.top_p)
            seen = draws.sampled_draws(
                plain, shop.space, asked, rows, told.seed, filters, torch.float32, guidance=guidance
            )
            metrics += draws.sampling_metrics(task, seen)
        return {(one.name, one.slice): one for one in metrics}

    return of


def values(found, name):
    return [found[name, task].value for task in TASKS]


def test_outputs_are_what_their_seeds_draw(measured):
    made = measured()
    found = made()
    assert values(found, "not_drawn_rate") == [0.0] * 2 and max(values(found, "draw_rank_z")) < 4
    assert failing(judged("C1", completed("C1", found.values(), 64))) == set()
    assert min(values(made(replace(SETTING, seed=1)), "not_drawn_rate")) > 0.5


def test_greedy_outputs_are_no_samples(measured, monkeypatch):
    monkeypatch.setitem(golden.TEMPERATURE, "sampled", 0.0)
    found = measured()()
    assert min(values(found, "not_drawn_rate")) > 0.5 and min(values(found, "draw_rank_z")) > 5
    verdict = judged("C1", completed("C1", found.values(), 64))
    assert failing(verdict) >= {f"{check} [{task}]" for check in ("drawn", "temperature") for task in TASKS}


def test_one_seed_for_all_is_found(measured, monkeypatch):
    monkeypatch.setattr(Wanted, "seed", lambda self, run_seed: run_seed)
    found = measured()()
    assert min(values(found, "not_drawn_rate")) > 0.5 and max(values(found, "draw_rank_z")) < 5
    assert failing(judged("C1", completed("C1", found.values(), 64))) == {f"drawn [{task}]" for task in TASKS}


def test_filters_and_guidance_of_the_profile_are_followed(measured):
    setting = replace(SETTING, top_k=5, top_p=0.7, guidance=3.0)
    made = measured(setting)
    found = made()
    assert values(found, "not_drawn_rate") == [0.0] * 2 and max(values(found, "draw_rank_z")) < 4
    for off in ({"top_k": 0}, {"top_p": 1.0}, {"guidance": 1.0}):
        assert max(values(made(replace(setting, **off)), "not_drawn_rate")) > 0.05, off


def test_the_rank_of_a_draw_has_mean_one_half_and_the_variance_that_is_told():
    chance = torch.tensor([0.6, 0.2, 0.2, 0.0], dtype=torch.float64)
    chosen = torch.arange(4)
    rank, variance = draws.mid_ranks(chance.log().expand(4, 4), chosen)
    assert torch.allclose(rank[:3], torch.tensor([-0.2, 0.2, 0.4], dtype=torch.float64))
    assert float(chance @ rank) == pytest.approx(0, abs=1e-12)
    assert float(chance @ rank**2) == pytest.approx(float(variance[0]))


@pytest.mark.parametrize("sharpness", [0.1, 2.0, 8.0])
def test_z_of_sound_draws_stays_within_its_bound(sharpness):
    generator = torch.Generator().manual_seed(0)
    scaled = sharpness * torch.randn(300, 40, generator=generator, dtype=torch.float64)
    found = []
    for _ in range(40):
        chosen = torch.multinomial(scaled.softmax(1), 1, generator=generator)[:, 0]
        found.append(draws.rank_z(*(part.numpy() for part in draws.mid_ranks(scaled, chosen))))
    assert max(map(abs, found)) < 4 and abs(np.mean(found)) < 0.6
    likeliest = draws.rank_z(*(part.numpy() for part in draws.mid_ranks(scaled, scaled.argmax(1))))
    assert likeliest < -5


def test_an_id_at_the_edge_of_a_filter_is_in_or_out():
    scaled = torch.tensor([[3.0, 2.0, 1.999, 0.0, -torch.inf]], dtype=torch.float64)
    slack = torch.tensor([0.01], dtype=torch.float64)

    def left(slack, **filters):
        return draws.kept(scaled, Filters(**filters), slack)[0].tolist()

    assert left(slack) == left(-slack) == [True] * 4 + [False]
    assert left(slack, top_k=2) == [True, True, True, False, False]
    assert left(-slack, top_k=2) == [True, False, False, False, False]
    half = float(scaled.softmax(1)[0, 0])
    assert left(slack, top_p=half) == [True, True, False, False, False]
    assert left(-slack, top_p=half) == [True, False, False, False, False]


def test_an_id_that_the_format_forbids_is_no_draw():
    logits = torch.tensor([[0.0, 1.0, -torch.inf]])
    one = Choices(torch.arange(3), 0, torch.tensor([2]), logits)
    lead, allowed, *_ = draws.looked_at(one, 5, Filters(), torch.float32)
    assert lead[0] == np.inf and allowed[0] == pytest.approx(1e-3)
