"""Tensors of one call on unlike devices: a line that names them, never an address that the device cannot read."""

import pytest
import torch

from mmpt.ops import native, reference_check
from tests.ops.native.test_linear_cross_entropy import problem

ON_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)  # the kernel itself: chosen by what hidden is on


@pytest.mark.parametrize(
    "place,name",
    [
        (1, "labels"),
        (2, "weight_base"),
        (3, "weight_new"),
        (7, "column_range lo"),
        (8, "column_range hi"),
        (9, "group"),
        (11, "token_weight"),
    ],
)
def test_the_loss_names_what_lies_elsewhere(place, name):
    hidden, labels, base, new = problem(dtype=torch.float32)
    zeros, ones = torch.zeros(23, dtype=torch.long), torch.full((23,), 17)
    arguments = [
        hidden,
        labels,
        base,
        new,
        -100,
        0,
        -1,
        zeros,
        ones,
        zeros,
        1,
        torch.ones(23),
        0.0,
        0.0,
        0.0,
        "mean",
        None,
        None,
        False,
        False,
        False,
    ]
    operation = torch.ops.mmpt.linear_cross_entropy.default
    operation.redispatch(ON_CPU, *arguments)
    arguments[place] = arguments[place].to("meta")
    with pytest.raises(ValueError, match=f"{name} is on meta.*hidden on cpu"):
        operation.redispatch(ON_CPU, *arguments)


def test_a_draw_names_what_lies_elsewhere():
    hidden, base, new = torch.ones(2, 3), torch.ones(5, 3), torch.ones(4, 3)
    numbers = native._parameters(0, 5, None, 0.0, 0, 1.0, 0, 0, None)
    operation = torch.ops.mmpt.sample_range.default
    for weights in ((base.to("meta"), new), (base, new.to("meta"))):
        with pytest.raises(ValueError, match="hidden is on cpu.*expected one device"):
            operation.redispatch(ON_CPU, hidden, *weights, 0.0, *numbers)


def test_the_gate_gives_the_loss_everything_on_the_device_it_measures(monkeypatch):
    seen = []

    def spied(*tensors, column_range, **options):
        seen.extend(tensors + (column_range or ()))
        return native.linear_cross_entropy(*tensors, column_range=column_range, **options)

    monkeypatch.setattr(reference_check, "linear_cross_entropy", spied)
    hidden, labels, base, new = (one.to("meta") for one in problem(dtype=torch.float32))
    bounds = torch.zeros(23, dtype=torch.long), torch.full((23,), 17)
    reference_check._our_loss(hidden, base, new, labels, bounds, {})
    assert len(seen) == 6 and {one.device.type for one in seen} == {"meta"}
