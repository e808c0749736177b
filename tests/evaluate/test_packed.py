"""Check A3.packed: nothing on the model as it is built, and each way in which packed sequences see each other."""

import pytest

from mmpt.evaluate import packed
from mmpt.train.preparation import prepare_train
from tests.gating.gate_evidence import failing, judged


@pytest.fixture
def prepared(run):
    return prepare_train(run.context("preflight"))


def values(prepared):
    return {metric.name: metric for metric in packed.packed_metrics(prepared)}


def fails(prepared):
    """Which of the two checks fail; what else A3 asks is not measured here."""
    return failing(judged("A3", packed.packed_metrics(prepared)))


def test_packed_sequences_cost_what_each_costs_alone(prepared):
    found = values(prepared)
    assert found["packed_over_tolerance"].value < 1 and found["packed_over_tolerance"].n >= 16
    assert found["packed_sequences_unmatched"].value == 0
    assert fails(prepared) == set()


def test_the_model_is_left_in_its_mode(prepared):
    prepared.model.train()
    packed.packed_metrics(prepared)
    assert prepared.model.training


def test_neighbours_that_see_each_other_fail(prepared, monkeypatch):
    """Red team: packed rows as one causal sequence, stopped only by its side effect on text (C3)."""
    right = type(prepared.model).hidden

    def one_sequence(self, ids, positions=None, **how):
        if how.get("lengths"):
            how |= {"lengths": (ids.shape[1],)}
        return right(self, ids, positions, **how)

    monkeypatch.setattr(type(prepared.model), "hidden", one_sequence)
    assert fails(prepared) == {"packed"}


def test_positions_that_go_on_from_the_neighbour_fail(prepared, monkeypatch):
    """Rotary embeddings depend on distances alone: a shift of all positions changes nothing, doubled ones do."""
    right = type(prepared.model).hidden

    def doubled(self, ids, positions=None, **how):
        return right(self, ids, positions if positions is None else positions * 2, **how)

    monkeypatch.setattr(type(prepared.model), "hidden", doubled)
    assert fails(prepared) == {"packed"}


def test_rows_that_hold_other_sequences_fail(prepared, monkeypatch):
    right = packed.lay

    def swapped(batch, *arguments, **how):
        batch.input_ids[:, 1] = batch.input_ids[:, 2]
        return right(batch, *arguments, **how)

    monkeypatch.setattr(packed, "lay", swapped)
    assert "packed_whole" in fails(prepared)
