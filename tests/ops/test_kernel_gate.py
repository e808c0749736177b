"""Gate K1 on broken operations: each kind of error, through the stage, to the gate's verdict."""

import pytest
import torch

from mmpt.ops import reference_check
from mmpt.stages import kernels as kernels_stage
from mmpt.stages.kernels import kernels
from mmpt.store.canonical import read_json
from mmpt.store.stage import SliceView, StageContext
from tests.gating.gate_evidence import failing, judged, undecided


def k1(folder, device="cpu"):
    ctx = StageContext(
        "kernels",
        SliceView({"ops": {"backend": "auto"}}, ("ops",)),
        {},
        folder,
        folder,
        seed=3,
        device=device,
    )
    kernels(ctx)
    return judged("K1", read_json(folder / "evidence" / "K1.json"))


@pytest.fixture
def few(monkeypatch):
    """Two losses and one batch of draws are enough to break."""
    right, drawn = reference_check._check_sampling, []

    def once(*args):
        if not drawn:
            right(*args)
            drawn.append(args)

    monkeypatch.setattr(reference_check, "LOSS_CASES", reference_check.LOSS_CASES[:2])
    monkeypatch.setattr(reference_check, "_check_sampling", once)


def test_sound_ops_pass(tmp_path, few):
    assert k1(tmp_path).verdict == "GO"


@pytest.mark.parametrize("quantity", reference_check.QUANTITIES)
def test_a_quantity_off_its_reference_fails(tmp_path, few, monkeypatch, quantity):
    right = reference_check._our_loss

    def wrong(*args):
        found = right(*args)
        return {**found, quantity: found[quantity] * 1.02}

    monkeypatch.setattr(reference_check, "_our_loss", wrong)
    verdict = k1(tmp_path)
    assert verdict.verdict == "NO_GO" and failing(verdict) == {f"error [linear_cross_entropy.{quantity}.cpu]"}


@pytest.mark.parametrize("op", ["sample_range", "sample_logits"])
def test_a_sampler_outside_its_support_fails(tmp_path, few, monkeypatch, op):
    right = getattr(reference_check, op)
    monkeypatch.setattr(reference_check, op, lambda *a, **k: (right(*a, **k) + 50) % 110)
    verdict = k1(tmp_path)
    assert verdict.verdict == "NO_GO" and failing(verdict) == {f"support [{op}.cpu]"}


def test_a_nan_fails(tmp_path, few, monkeypatch):
    right = reference_check._our_loss

    def wrong(*args):
        found = right(*args)
        found["grad_hidden"].view(-1)[0] = torch.nan
        return found

    monkeypatch.setattr(reference_check, "_our_loss", wrong)
    assert failing(k1(tmp_path)) == {"nonfinite", "error [linear_cross_entropy.grad_hidden.cpu]"}


def test_a_quantity_that_was_not_measured_is_no_pass(tmp_path, few, monkeypatch):
    monkeypatch.setattr(reference_check, "QUANTITIES", ("loss", "nll", "lse", "grad_hidden"))
    verdict = k1(tmp_path)
    assert undecided(verdict) == {"error [linear_cross_entropy.grad_weight]"}
    assert verdict.verdict == "NO_GO" and failing(verdict) == {"devices"}


def test_the_device_of_the_run_must_be_among_those_checked(tmp_path, few, monkeypatch):
    monkeypatch.setattr(kernels_stage, "devices", lambda: ["cpu"])
    assert failing(k1(tmp_path, device="cuda")) == {"devices"}
