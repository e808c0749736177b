"""The measurement of gate K1: clean on the ops as they are, and not clean on broken ones."""

import json

import pytest
import torch

from mmpt.ops import reference_check
from mmpt.ops.reference_check import check
from mmpt.stages.kernels import kernels
from mmpt.store.schema import validate_file
from mmpt.store.stage import SliceView, StageContext


@pytest.fixture
def small_cases(monkeypatch):
    """Without the two cases that take nearly all of the time, where they show nothing more."""
    monkeypatch.setattr(
        reference_check, "LOSS_CASES", tuple(case for case in reference_check.LOSS_CASES if case.base < 1000)
    )


def test_the_ops_hold_their_tolerances(backend):
    told: list[tuple[int, int]] = []
    found = check("cpu", 1, lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == list(range(told[0][1])), "each case moves the bar"
    assert max(found.errors.values()) <= 1 and found.nonfinite == 0
    assert sum(found.violations.values()) == 0 and min(found.draws.values()) > 1000
    assert {name.split(".")[1] for name in found.errors} == set(reference_check.QUANTITIES)


def test_a_wrong_gradient_is_found(monkeypatch, small_cases):
    right = reference_check._our_loss

    def wrong(*args):
        out = right(*args)
        return {**out, "grad_weight": out["grad_weight"] * 1.02}

    monkeypatch.setattr(reference_check, "_our_loss", wrong)
    assert check("cpu", 1).errors["linear_cross_entropy.grad_weight.cpu"] > 1


def test_a_sampler_that_leaves_its_range_is_found(monkeypatch, small_cases):
    right = reference_check.sample_logits
    monkeypatch.setattr(reference_check, "sample_logits", lambda *a, **k: (right(*a, **k) + 50) % 110)
    assert check("cpu", 1).violations["sample_logits.cpu"] > 0


def test_a_screen_that_rules_out_too_much_is_found(monkeypatch, small_cases):
    from mmpt.ops import native

    right = native.screen

    def sure(base, new):
        made = right(base, new)
        return native.Screen(made.codes, made.scale, made.bound / 100)

    monkeypatch.setattr(reference_check, "screen", sure)
    assert check("cpu", 1).violations["sample_range.cpu"] > 0


def test_the_stage_writes_valid_equal_bytes(tmp_path, backend, small_cases):
    texts = []
    for name in ("a", "b"):
        ctx = StageContext(
            "kernels",
            SliceView({"ops": {"backend": "auto"}}, ("ops",)),
            {},
            tmp_path / name,
            tmp_path,
            seed=3,
        )
        kernels(ctx)
        validate_file(tmp_path / name / "kernels.json", "kernels")
        assert json.loads((tmp_path / name / "kernels.json").read_text())["backend"] == backend
        texts.append((tmp_path / name / "evidence" / "K1.json").read_bytes())
    assert texts[0] == texts[1]
    metrics = {m["name"] for m in json.loads(texts[0])["metrics"]}
    assert metrics == {"error_over_tolerance", "support_violations", "nonfinite_values", "devices_unchecked"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_ops_hold_their_tolerances_on_cuda():
    found = check("cuda", 1)
    assert max(found.errors.values()) <= 1 and sum(found.violations.values()) == 0
