"""Reconstructions that do not show their own medium are distinguished from those that do, by the written files."""

from __future__ import annotations

import numpy as np
import pytest

from mmpt.evaluate import emission, ground_truth, trend
from mmpt.evaluate.sets import golden_sets

EMIT = ("t2a", "t2i")


@pytest.fixture
def measured(run, tmp_path, monkeypatch):
    """Metrics by (name, task) of reconstructions written while `fault`, a name in emission, is replaced."""

    def of(fault: str = "", replacement=None):
        context = run.context("generate", tmp_path / (fault or "sound") / "data")
        watch, sets = trend.TrendEvaluator.of(run.context("trend")), golden_sets(run.data("golden"))
        with monkeypatch.context() as patch:
            if fault:
                patch.setattr(emission, fault, replacement)
            emission.write_reconstructions(
                watch.decoder, sets, trend.setting_of(run.context("trend")), tmp_path / "qual"
            )
        metrics = ground_truth.ground_truth_metrics(
            context, watch.decoder.codecs, watch.decoder.space, sets, tmp_path / "qual"
        )
        return {(one.name, one.slice): one for one in metrics}

    return of


def test_sound_reconstructions_are_as_good_as_the_codec(measured):
    found = measured()
    for task in EMIT:
        # A 16-bit file of a codec with 32 codes keeps 0.95 of what its float samples had.
        assert found["reconstruction_share", task].value > 0.93
        assert found["reconstruction_gap", task].value > 0 and found["reconstruction_win_rate", task].value >= 0.75


def test_a_picture_whose_tokens_are_shuffled_falls_short(measured):
    right = emission.decode_image
    order = np.random.default_rng(0).permutation(16)
    found = measured("decode_image", lambda codecs, space, ids, seed: right(codecs, space, ids[order], seed))
    assert found["reconstruction_share", "t2i"].value < 0.9 < found["reconstruction_share", "t2a"].value


def test_a_sound_played_backwards_falls_short(measured):
    right = emission.decode_audio
    found = measured("decode_audio", lambda *words: right(*words)[:, ::-1])
    assert found["reconstruction_share", "t2a"].value < 0.9 < found["reconstruction_share", "t2i"].value


def test_a_reconstruction_of_another_item_wins_nothing(measured):
    right, seen = emission.decode_image, []

    def last(codecs, space, ids, seed):
        seen.append(ids)
        return right(codecs, space, seen[max(0, len(seen) - 2)], seed)

    found = measured("decode_image", last)
    assert found["reconstruction_share", "t2i"].value < 0.9


def test_nothing_to_compare_is_no_value():
    assert all(one.value is None and one.n == 0 for one in ground_truth.share_metrics([], "t2i", 100, 0))
    flat = [{"group": f"g{i}", "own": 5.0, "other": 5.0, "codec": 5.0} for i in range(4)]
    assert ground_truth.share_metrics(flat, "t2i", 100, 0)[0].value is None
