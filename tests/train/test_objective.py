"""The objective: task means, label shift, ranges, and accumulation that changes nothing."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmpt import ops
from mmpt.shards.mixture import KINDS
from mmpt.tokens.formats import SLOTS
from mmpt.train.distributed import Ranks
from mmpt.train.heldout import item_losses, payload_slots
from mmpt.train.objective import backward, decode_ranges, targets_of
from tests.train.small_run import ROW, Examples, fresh, small_loader, small_settings


def read(model, batch, settings, ranges=None, **options):
    return backward(model, batch, settings, ranges, **options).read(model.space)


def gradients(model):
    return {key: p.grad.clone() for key, p in model.adapter_parameters().items() if p.grad is not None}


@pytest.fixture
def model(tmp_path):
    return fresh(tmp_path / "base", tied=False)


def by_hand(model, batch):
    """sum over tasks of the mean of -log p(label | what stands before it), from full logits of separate
    sequences.
    """
    sums, counts = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0)
    for row in range(len(batch.input_ids)):
        starts = [*np.nonzero(batch.position_ids[row] == 0)[0], batch.input_ids.shape[1]]
        for a, b in itertools.pairwise(starts):
            kind = int(batch.task[row, a])
            labels = torch.from_numpy(batch.labels[row, a:b])
            if kind < 0 or b - a < 2:
                continue
            logits = model.logits(model.hidden(torch.from_numpy(batch.input_ids[row : row + 1, a:b])))[0]
            sums[KINDS[kind]] = sums[KINDS[kind]] + F.cross_entropy(logits[:-1], labels[1:], reduction="sum")
            counts[KINDS[kind]] += int((labels[1:] != -100).sum())
    return sum(sums[k] / counts[k] for k in KINDS if counts[k]), sums, counts


def test_it_is_the_sum_of_task_means_of_separate_sequences(model):
    batch = small_loader(model.space, 4).batch(2)
    expected, sums, counts = by_hand(model, batch)
    expected.backward()
    theirs = gradients(model)
    model.zero_grad()
    objective, ours = read(model, batch, small_settings(4))
    assert objective == pytest.approx(float(expected.detach()), rel=1e-5)
    for key, grad in gradients(model).items():
        torch.testing.assert_close(grad, theirs[key], rtol=1e-3, atol=2e-5)
    for i, kind in enumerate(KINDS):
        assert ours.count[i].sum() == counts[kind] == batch.n_supervised.get(kind, 0)
        assert ours.nll[i].sum() == pytest.approx(float(sums[kind].detach()), rel=1e-5)


def test_rows_with_padding_give_what_the_stream_gives(model):
    batch = small_loader(model.space, 4).batch(1)
    assert model.packs
    objective, sums = read(model, batch, small_settings(4))
    expected = gradients(model)
    model.zero_grad()
    model.packs = False  # as for a model with another attention
    rows, same = read(model, batch, small_settings(4))
    assert rows == pytest.approx(objective, rel=1e-5) and (sums.count == same.count).all()
    for key, grad in gradients(model).items():
        torch.testing.assert_close(grad, expected[key], rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("rows", [1, 2])
def test_accumulated_micro_batches_give_the_whole_batchs_gradient(model, rows):
    batch = small_loader(model.space, 4).batch(1)
    assert len(batch.input_ids) > rows
    whole, _ = read(model, batch, small_settings(4))
    expected = gradients(model)
    model.zero_grad()
    parts, _ = read(model, batch, small_settings(4, micro_rows=rows))
    assert parts == pytest.approx(whole, rel=1e-5)
    for key, grad in gradients(model).items():
        torch.testing.assert_close(grad, expected[key], rtol=1e-3, atol=2e-6)


def test_turns_of_several_ranks_add_up_to_the_batch(tmp_path):
    """Dropout too: it belongs to the micro-batch, not to the rank that runs it."""
    model = fresh(tmp_path / "base", dropout=0.2).train()
    batch, settings = small_loader(model.space, 4).batch(1), small_settings(4, micro_rows=1, seed=3)
    before = torch.get_rng_state()
    whole, sums = read(model, batch, settings, step=7)
    assert torch.equal(torch.get_rng_state(), before)
    expected = gradients(model)
    model.zero_grad()
    torch.rand(5)  # another random state, another order
    parts = [read(model, batch, settings, step=7, ranks=Ranks(rank, 2)) for rank in (1, 0)]
    assert sum(part for part, _ in parts) == pytest.approx(whole, rel=1e-6)
    assert (sum(part.count for _, part in parts) == sums.count).all()
    for key, grad in gradients(model).items():
        torch.testing.assert_close(grad, expected[key], rtol=1e-4, atol=1e-7)
    other, _ = read(model, batch, settings, step=8)
    assert other != pytest.approx(whole, rel=1e-4)


def test_task_weights_scale_their_task_alone(model):
    batch = small_loader(model.space, 4).batch(1)
    one, sums = read(model, batch, small_settings(4))
    weights = {**dict.fromkeys(KINDS, 1.0), "t2a": 3.0}
    three, _ = read(model, batch, small_settings(4, task_weights=weights))
    i = KINDS.index("t2a")
    assert three - one == pytest.approx(2 * sums.nll[i].sum() / sums.count[i].sum(), rel=1e-4)


def test_the_operation_is_given_how_many_rows_are_supervised(model, monkeypatch):
    """On CUDA it would count them on the device otherwise, and wait: once for each micro-batch."""
    seen = []

    def spied(hidden, labels, *args, **options):
        seen.append((options.get("max_valid"), int((labels != -100).sum())))
        return ops.linear_cross_entropy(hidden, labels, *args, **options)

    monkeypatch.setattr("mmpt.train.objective.linear_cross_entropy", spied)
    read(model, small_loader(model.space, 4).batch(1), small_settings(4, micro_rows=1))
    assert len(seen) > 1 and all(given == count for given, count in seen)


def test_the_first_token_of_a_row_cannot_be_a_target():
    with pytest.raises(ValueError, match="first token of row 1"):
        targets_of(np.array([[-100, 3], [2, -100]]), np.zeros((2, 2), np.int8), np.zeros((2, 2), np.int8), "cpu")


def test_decode_ranges_hold_their_labels_and_the_text_range_its_end(model):
    space = model.space
    lo, hi = decode_ranges(space)
    named = dict(zip(SLOTS(space), zip(lo.tolist(), hi.tolist(), strict=True), strict=True))
    assert named["image"] == (space.ranges["IMAGE"].start, space.ranges["IMAGE"].stop)
    assert named["audio_cb1"] == (space.ranges["AUDIO_CB1"].start, space.ranges["AUDIO_CB1"].stop)
    assert named["text"] == named["text_end"] == (0, space.ranges["SPECIAL"].stop)
    assert named["audio_end"] == (0, space.vocab_size_total)
    loss, sums = read(model, small_loader(space, 4).batch(1), small_settings(4), (lo, hi))
    full, whole = read(model, small_loader(space, 4).batch(1), small_settings(4))
    assert loss < full and (sums.nll <= whole.nll + 1e-9).all() and (sums.count == whole.count).all()


def test_item_losses_equal_each_item_alone(model):
    class Set(Examples):
        def __getitem__(self, index):
            return self.draw(index)

    for kind in ("t2a", "t2i", "a2t"):
        examples = Set(model.space, kind, 7)
        got = item_losses(model.eval(), examples, range(7), ROW)
        bounds = payload_slots(model.space)
        for i in range(7):
            one = examples.draw(i)
            logits = model.logits(model.hidden(torch.from_numpy(one.input_ids.astype(np.int64))[None]))[0].double()
            at = np.nonzero(one.labels != -100)[0]
            full = [-torch.log_softmax(logits[p - 1], 0)[int(one.labels[p])] for p in at]
            inside = [
                -torch.log_softmax(logits[p - 1, slice(*bounds[int(one.slots[p])])], 0)[
                    int(one.labels[p]) - bounds[int(one.slots[p])][0]
                ]
                for p in at[:-1]  # the last is the end token
            ]
            assert got.full[i] == pytest.approx(float(sum(full).detach()) / len(full), rel=1e-5)
            assert got.inside[i] == pytest.approx(float(sum(inside).detach()) / len(inside), rel=1e-5)
