"""The decoding engine: what comes out is legal, the reference's own choice, and independent of its batch."""

import copy

import numpy as np
import pytest
import torch

from mmpt.generate import engine, generate, unconstrained
from mmpt.ops import native
from mmpt.tokens import TASKS, check, prompt
from tests.generate.plain_decoder import reference_generate
from tests.generate.random_lm import TEXT, RandomLM


def ids_of(outputs):
    return [one.ids.tolist() for one in outputs]


@pytest.mark.parametrize("task", TASKS)
def test_greedy_agrees_with_transformers_token_for_token(model, items, task):
    prompts, grammars = items(task)
    ours = generate(model, prompts, grammars)
    theirs = reference_generate(model.lm, prompts, grammars, pad_id=0)
    assert ids_of(ours) == ids_of(theirs)
    assert [one.ended for one in ours] == [one.ended for one in theirs]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
def test_random_weights_cannot_leave_the_grammar(model, items, task, temperature):
    prompts, grammars = items(task)
    outputs = generate(model, prompts, grammars, temperature=temperature, seeds=range(len(prompts)))
    for output, grammar in zip(outputs, grammars, strict=True):
        check(grammar, output.ids)
        assert output.ids.dtype == np.int32
        assert output.ended or len(output.ids) == grammar.max_len


def test_lengths_are_exact_where_the_grammar_is(model, items):
    prompts, grammars = items("t2a")
    lengths = [len(one.ids) for one in generate(model, prompts, grammars, temperature=1.0, seeds=range(5))]
    assert all(n == g.max_len for n, g in zip(lengths, grammars, strict=True) if g.min_len == g.max_len)
    assert all(n % 3 == 0 for n in lengths)


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_does_not_depend_on_its_batch(model, items, task):
    prompts, grammars = items(task)
    how = {"temperature": 1.0, "top_k": 20, "top_p": 0.95}
    together = ids_of(generate(model, prompts, grammars, seeds=range(5), **how))
    assert together == ids_of(generate(model, prompts, grammars, seeds=range(5), batch_size=2, **how))
    alone = [
        ids_of(generate(model, [p], [g], seeds=[i], **how))[0]
        for i, (p, g) in enumerate(zip(prompts, grammars, strict=True))
    ]
    assert together == alone
    assert together != ids_of(generate(model, prompts, grammars, seeds=range(5, 10), **how))


def test_every_position_draws_its_own_noise(model, items):
    prompts, grammars = items("t2i")
    flat = RandomLM(copy.deepcopy(model.lm))
    with torch.no_grad():
        flat.lm.lm_head.weight.zero_()  # all ids equally likely: what comes out is the noise
    outputs = ids_of(generate(flat, prompts, grammars, temperature=1.0, seeds=range(5)))
    assert all(len(set(ids)) > 3 for ids in outputs)


def test_top_k_one_is_greedy(model, items):
    prompts, grammars = items("t2i")
    assert ids_of(generate(model, prompts, grammars, temperature=3.0, top_k=1, seeds=range(5))) == ids_of(
        generate(model, prompts, grammars)
    )


def test_guidance_mixes_the_two_rows_of_logits(model, space, items):
    prompts, grammars = items("t2i")
    empty = [prompt(space, "t2i", [])] * len(prompts)
    strong = generate(model, prompts, grammars, guidance=3.0, empty_prompts=empty)
    naive = []
    for given, nothing, grammar in zip(prompts, empty, grammars, strict=True):
        ids: list[int] = []
        for position in range(grammar.max_len):
            rows = []
            for start in (given, nothing):
                whole = torch.as_tensor(np.concatenate([start, ids]).astype(np.int64))[None]
                rows.append(model.lm(whole).logits[0, -1])
            mixed = rows[1] + 3.0 * (rows[0] - rows[1])
            lo, hi, _ = grammar.at(position)
            ids.append(lo + int(mixed[lo:hi].argmax()))
        naive.append(ids)
    assert ids_of(strong) == naive
    assert naive != ids_of(generate(model, prompts, grammars))


def test_guidance_of_one_needs_no_empty_prompt_and_other_does(model, items):
    prompts, grammars = items("t2i")
    with pytest.raises(ValueError, match="empty prompt"):
        generate(model, prompts, grammars, guidance=2.0)


def test_legal_mass_is_the_softmax_share_of_the_allowed_ids(model, items):
    prompts, grammars = items("t2i")
    output = generate(model, prompts[:1], grammars[:1])[0]
    whole = torch.as_tensor(np.concatenate([prompts[0], output.ids]).astype(np.int64))[None]
    shares = model.lm(whole).logits.detach()[0, len(prompts[0]) - 1 : -1].softmax(-1)
    lo, hi, _ = grammars[0].at(0)
    assert output.legal_mass == pytest.approx(float(shares[:, lo:hi].sum(1).mean()), abs=1e-6)
    assert 0 < output.legal_mass < 1


def test_legal_mass_counts_the_end_token_where_it_is_allowed(model, items):
    prompts, grammars = items("a2t")
    outputs = generate(model, prompts, grammars)
    for given, output, grammar in zip(prompts, outputs, grammars, strict=True):
        decoded = np.append(output.ids, grammar.end_id) if output.ended else output.ids
        whole = torch.as_tensor(np.concatenate([given, decoded]).astype(np.int64))[None]
        shares = model.lm(whole).logits.detach()[0, len(given) - 1 : -1].softmax(-1)
        legal = (
            shares[:, :TEXT].sum(1) + torch.as_tensor(grammar.end_allowed[: len(decoded)]) * shares[:, grammar.end_id]
        )
        assert output.legal_mass == pytest.approx(float(legal.mean()), abs=1e-6)


def test_without_the_grammar_random_weights_are_rarely_valid(model, space, items):
    prompts, grammars = items("t2i")
    outputs = unconstrained(model, prompts, grammars, vocab_size=space.vocab_size_total)
    assert any(((one.ids < g.lo[0]) | (one.ids >= g.hi[0])).any() for one, g in zip(outputs, grammars, strict=True))
    assert all(one.legal_mass == pytest.approx(1.0) for one in outputs)
    assert all(len(one.ids) <= g.max_len + 1 for one, g in zip(outputs, grammars, strict=True))


def test_nan_weights_are_an_error_not_an_output(model, items):
    prompts, grammars = items("t2i")
    norm = model.lm.model.norm.weight
    kept = norm.detach().clone()
    try:
        with torch.no_grad():
            norm[0] = torch.nan
        with pytest.raises(ValueError, match="NaN"):
            generate(model, prompts, grammars)
    finally:
        with torch.no_grad():
            norm.copy_(kept)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_screen_changes_no_id(model, items, monkeypatch, temperature):
    prompts, grammars = items("a2t")
    how = {"temperature": temperature, "seeds": range(5)}
    plain = ids_of(generate(model, prompts, grammars, **how))
    made = []
    monkeypatch.setattr(engine, "WIDE", 1)
    monkeypatch.setattr(engine, "SCREENED_STEPS", 0)
    monkeypatch.setattr(engine, "screen", lambda *head: made.append(native.screen(*head)) or made[-1])
    assert ids_of(generate(model, prompts, grammars, **how)) == plain and len(made) == 1


def test_a_screen_is_made_for_wide_ranges_and_enough_steps(model, items, monkeypatch):
    asked = []
    monkeypatch.setattr(engine, "screen", lambda *head: asked.append(head))
    prompts, grammars = items("a2t")
    generate(model, prompts, grammars)
    assert not asked
    monkeypatch.setattr(engine, "WIDE", grammars[0].hi.max() - grammars[0].lo.min())
    monkeypatch.setattr(engine, "SCREENED_STEPS", min(one.max_len for one in grammars))
    generate(model, prompts, grammars)
    assert len(asked) == 1
    generate(model, prompts, grammars, temperature=1.0, top_p=0.9)
    assert len(asked) == 1
    monkeypatch.setattr(engine, "SCREENED_STEPS", max(one.max_len for one in grammars) + 1)
    generate(model, prompts, grammars)
    assert len(asked) == 1
