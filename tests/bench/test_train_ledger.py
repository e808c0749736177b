"""The ledger of a step: its products are those that the model needs, none in fp32; compiled layers move less."""

from collections import Counter

import pytest
import torch

from mmpt.bench import train_ledger
from mmpt.bench.train_ledger import PEAK, Line, step_lines, table
from mmpt.bench.train_work import WORKLOADS, meta_model
from mmpt.train.speed import Flops

SHAPE = WORKLOADS["smallest"]


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory):
    """By (ours, compiled): (lines, FLOPs, tokens)."""
    torch._dynamo.reset()
    found = {}
    for way in ((False, False), (True, False), (True, True)):
        model = meta_model(SHAPE, torch.bfloat16, ours=way[0])
        found[way] = step_lines(model, SHAPE, tmp_path_factory.mktemp("ledger"), compiled=way[1])
    torch._dynamo.reset()
    return found


@pytest.mark.slow  # 15 seconds of tracing, for an estimate that nobody decides by
def test_each_way_has_the_products_that_training_needs_and_ours_have_none_in_fp32(ledgers):
    flops = Flops.of(meta_model(SHAPE, torch.bfloat16), "full")
    for (ours, _), (lines, needed, tokens) in ledgers.items():
        products = [line for line in lines if "products" in line.kind and line.flops]
        assert sum(line.flops for line in products) == pytest.approx(flops.token * tokens, rel=1e-6)
        assert (torch.float32 in {line.dtype for line in products}) == (not ours)
        assert needed > flops.token * tokens


@pytest.mark.slow
def test_ours_move_less_than_pefts_and_compiled_less_again(ledgers):
    moved = [sum(line.bytes for line in lines if line.kind != "optimizer") for lines, *_ in ledgers.values()]
    assert moved[0] > 1.5 * moved[1] > 1.5 * 1.2 * moved[2]
    kinds = [Counter(line.kind for line in lines) for lines, *_ in ledgers.values()]
    assert (
        kinds[0]["attention"] == kinds[1]["attention"] == kinds[2]["attention"] == 2 * 2 * 2
    )  # layers, halves, two ways
    assert all(one["head and loss"] == 2 for one in kinds)


def test_a_kernel_takes_the_longer_of_its_two_times_and_the_table_adds_them_up():
    busy, long = (
        Line("products", "mm", torch.bfloat16, 0.7 * PEAK[torch.bfloat16], 1.0),
        Line("between products", "add", torch.bfloat16, 0.0, 0.85 * 3.35e12),
    )
    assert busy.seconds(3.35e12) == pytest.approx(1.0) and long.seconds(3.35e12) == pytest.approx(1.0)
    assert Line("between products", "add", torch.bfloat16, 0.0, 4.0).seconds(3.35e12) == train_ledger.LAUNCH
    text = table([busy, long], 0.5 * PEAK[torch.bfloat16], 1000, "h100")
    assert "2000.0 ms, 500 tokens/s, MFU 25.0% of h100" in text
