"""Teacher-forced losses: equal to a naive computation, independent of batching; gaps and growth on known
numbers.
"""

import numpy as np
import pytest
import torch

from mmpt.evaluate.ablation import Ablation, ablate, gap_metrics, growth, report, swap_metrics
from mmpt.evaluate.scoring import item_means, target_losses
from mmpt.evaluate.sets import ablation_sets
from mmpt.evaluate.text import CHUNK, chunk_losses, chunks, paired, unigram_losses
from mmpt.shards.shard_set import ShardSet
from mmpt.tokens import prompt


@pytest.fixture(scope="module")
def opened(run):
    with run.workshop().opened(run.trained().path(4)) as model:
        yield model


def test_losses_are_those_of_one_sequence_at_a_time(run, opened):
    records = ablation_sets(run.data("golden"))["t2a"][:4] + ablation_sets(run.data("golden"))["i2t"][:4]
    prompts = [prompt(opened.space, r["task"], r["prompt_ids"]) for r in records]
    targets = [np.asarray(r["target_ids"]) for r in records]
    together = target_losses(opened, prompts, targets)
    for given, target, losses in zip(prompts, targets, together, strict=True):
        whole = torch.as_tensor(np.concatenate([given, target]).astype(np.int64))[None]
        logits = opened.logits(opened.hidden(whole))[0, len(given) - 1 : -1]
        naive = torch.nn.functional.cross_entropy(
            logits.double(), torch.as_tensor(target.astype(np.int64)), reduction="none"
        )
        assert losses == pytest.approx(naive.numpy(), abs=2e-5)
    small = target_losses(opened, prompts, targets, tokens_per_batch=1)
    assert np.concatenate(small) == pytest.approx(np.concatenate(together), abs=2e-5)


def test_ablation_takes_the_conditions_apart(run, opened):
    records = ablation_sets(run.data("golden"))["t2i"]
    found = ablate(opened, opened.space, records)
    targets = [np.asarray(r["target_ids"]) for r in records]
    for condition, losses in (("prompt_ids", found.correct), ("swap_prompt_ids", found.swapped)):
        prompts = [prompt(opened.space, "t2i", r[condition]) for r in records]
        assert losses == pytest.approx(item_means(target_losses(opened, prompts, targets)), abs=2e-5)
    nothing = [prompt(opened.space, "t2i", [])] * len(records)
    assert found.empty == pytest.approx(item_means(target_losses(opened, nothing, targets)), abs=2e-5)
    assert ablate(opened, opened.space, ablation_sets(run.data("golden"))["a2t"]).empty is None


def made(gap, n=300, task="t2a"):
    rng = np.random.default_rng(0)
    correct = rng.normal(5, 1, n)
    names = tuple(f"r{i}" for i in range(n))
    return Ablation(
        task,
        names,
        tuple(f"g{i // 3}" for i in range(n)),
        correct,
        correct + rng.normal(gap, 0.3, n),
        correct + 1.0,
    )


def test_a_conditional_model_has_a_gap_and_an_unconditional_one_none():
    conditional = {m.name: m for m in gap_metrics(made(0.5), 500, 0)}
    assert conditional["gap_swapped_nats"].ci_low > 0.4 and conditional["win_rate_swapped"].value > 0.9
    assert conditional["win_rate_empty"].value == 1.0
    blind = {m.name: m for m in gap_metrics(made(0.0), 500, 0)}
    assert blind["gap_swapped_nats"].ci_low < 0 < blind["gap_swapped_nats"].ci_high
    assert 0.4 < blind["win_rate_swapped"].value < 0.6


def test_growth_is_paired():
    assert growth(made(0.5), made(0.1), 300, 0).value == pytest.approx(0.4, abs=0.1)
    assert growth(made(0.1), made(0.1), 300, 0).value == 0.0
    with pytest.raises(ValueError, match="same items"):
        growth(made(0.5, n=30), made(0.5, n=33), 300, 0)


def test_a_report_has_the_gaps_and_read_tasks_have_no_empty_one():
    entry = report(made(0.5), 300, 0)
    assert entry["gap_swapped"]["ci_low"] < entry["gap_swapped"]["mean"] < entry["gap_swapped"]["ci_high"]
    one = made(0.5)
    reading = Ablation("a2t", one.ids, one.groups, one.correct, one.swapped, None)
    assert "gap_empty" not in report(reading, 300, 0)


def test_bad_swaps_are_counted(run):
    records = [dict(r) for r in ablation_sets(run.data("golden"))["t2i"]]
    shown = {r["id"]: r for r in ShardSet.open(run.data("shards"), "image", "test").records}
    assert swap_metrics(records, shown)[0].value == 0
    records[0]["swap_group"] = records[0]["group"]
    records[1]["swap_prompt_ids"] = records[1]["prompt_ids"]
    assert swap_metrics(records, shown)[0].value == 2
    true = {**shown, records[2]["swap_id"]: {**shown[records[2]["id"]]}}  # its swapped prompt describes it after all
    assert swap_metrics(records, true)[0].value >= 3


def test_text_losses_see_only_the_columns_asked_for(opened):
    ids = np.random.default_rng(0).integers(0, 250, 3 * CHUNK + 5)
    pieces = chunks(ids, 2 * (CHUNK - 1))
    assert pieces.shape == (2, CHUNK)
    total = opened.space.vocab_size_total
    whole, text = (
        chunk_losses(opened, pieces, (0, total)),
        chunk_losses(opened, pieces, (0, opened.space.text_vocab_size)),
    )
    assert (whole > text).all()
    logits = opened.logits(opened.hidden(torch.as_tensor(pieces)))[:, :-1].double()
    naive = -logits.log_softmax(-1).gather(-1, torch.as_tensor(pieces[:, 1:])[..., None])[..., 0]
    assert whole == pytest.approx(naive.numpy(), abs=2e-5)


def test_paired_text_interval_and_unigram():
    before = np.random.default_rng(1).normal(3, 1, (40, CHUNK - 1))
    interval = paired(before + 0.05, before, 300, 0)
    assert interval.value == pytest.approx(0.05) and interval.n == before.size
    assert interval.low == pytest.approx(0.05) == interval.high
    pieces = np.array([[0, 1, 1, 2]])
    assert unigram_losses(np.array([1, 1, 1]), pieces, 3)[0] == pytest.approx(-np.log([4 / 6, 4 / 6, 1 / 6]))
