"""Speed: operations are those that torch counts, rates those of the steps alone, and the peaks those of the sheets."""

import itertools
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmpt.store.stage import SliceView, StageContext
from mmpt.tokens.formats import SLOTS
from mmpt.train import speed
from mmpt.train.gpus import peak_flops
from mmpt.train.loop import Hooks, train
from mmpt.train.objective import backward
from mmpt.train.preparation import Prepared
from mmpt.train.run_log import RunLog
from mmpt.train.speed import Flops, Pace
from mmpt.train.tensorboard import TensorBoardWriter
from tests.train.small_run import fresh, small_loader, small_settings


def _product(added_to, one, other, **rest):
    return 2 * one[0] * one[1] * other[1]


@pytest.mark.parametrize("rows_only", [False, True])
def test_a_tokens_operations_are_those_that_torch_counts(tmp_path, rows_only):
    """The products of the layers; the head's are in an operator of ours, attention's in the kernel."""
    model = fresh(tmp_path / "base", tied=False, dropout=0.1).train()  # with dropout nothing is folded
    if rows_only:
        model.train_rows_only()
    batch = small_loader(model.space, 4).batch(1)
    inplace = torch.ops.aten.addmm_  # torch counts the other form alone
    with FlopCounterMode(display=False, custom_mapping={inplace: _product}) as counter:
        backward(model, batch, small_settings(4), None)
    counted = counter.get_flop_counts()["Global"]
    aten = torch.ops.aten
    # Not bmm: older transformers multiply positions by rotary frequencies with it.
    products = sum(counted.get(op, 0) for op in (aten.mm, aten.addmm, inplace))
    assert products == Flops.of(model, "full").token * batch.n_tokens


def test_attention_counts_pairs_and_the_head_its_columns(tmp_path):
    model = fresh(tmp_path / "base", tied=False)
    batch, space = small_loader(model.space, 4).batch(1), model.space
    full, inside = Flops.of(model, "full"), Flops.of(model, "range")
    width, heads, layers = 8, 2, 2
    assert full.pair == 12 * heads * width * layers
    assert (full.target == 16 * (4 * space.text_vocab_size + 6 * space.n_new)).all()
    image = SLOTS(space).index("image")
    assert inside.target[image] == 16 * 6 * space.ranges["IMAGE"].size
    starts = np.flatnonzero(np.append((batch.position_ids == 0).ravel(), True))
    real = (batch.task >= 0).ravel()
    lengths = [b - a for a, b in itertools.pairwise(starts) if real[a]]
    pairs = sum(n * (n + 1) // 2 for n in lengths)
    supervised = sum(batch.n_supervised.values())
    expected = full.token * batch.n_tokens + full.pair * pairs + full.target[0] * supervised
    assert full.of_batch(batch) == expected > inside.of_batch(batch)


def test_saves_and_measurements_are_no_training(tmp_path, monkeypatch):
    model = fresh(tmp_path / "base")
    paces, wholes = [], []
    late = 0.0  # seconds that measurements took, by the clock of `speed`
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: time.perf_counter() + late))

    def slow(step):
        nonlocal late
        late += 1e4
        return {}

    def on_pace(step, pace):
        paces.append(pace.interval())
        wholes.append(pace.whole())

    hooks = Hooks(measure=slow, measure_at=(1, 2), on_pace=on_pace)
    train(model, small_loader(model.space, 9), small_settings(9), tmp_path / "run", hooks)
    loader = small_loader(model.space, 9)
    assert wholes[-1]["tokens"] == sum(loader.batch(step).n_tokens for step in range(9))
    assert late >= 2e4 and wholes[-1]["seconds"] < 1e4
    for one in paces:
        assert one["model_flops_utilisation"] is None and 0 <= one["data_wait_share"] <= 1
        assert one["tokens_per_second"] > 0 and one["peak_memory_bytes"] > 100 << 20


def test_utilisation_is_a_devices_share_of_its_peak(tmp_path, monkeypatch):
    model = fresh(tmp_path / "base")
    batch = small_loader(model.space, 4).batch(1)
    pace = Pace(model, "full", world=2)
    pace.peak = 1e9
    monkeypatch.setattr(speed.time, "perf_counter", lambda: pace._last + 0.5)
    pace.lap(batch, 0.25)
    found = pace.interval()
    assert found["model_flops_utilisation"] == pytest.approx(pace.flops.of_batch(batch) / 0.5 / 2 / 1e9)
    assert found["tokens_per_second"] == batch.n_tokens / 0.5 and found["data_wait_share"] == 0.5


@pytest.mark.parametrize(
    "name, peak",
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 2060", None),
    ],
)
def test_a_device_is_known_by_its_name(name, peak):
    assert peak_flops(name, torch.bfloat16) == peak and peak_flops(name, torch.float32) is None


def context(root: Path, **changes) -> StageContext:
    return StageContext("train", SliceView({}, (), "train"), {}, root / "out", root / "work-train-1", **changes)


def test_the_log_the_receipt_and_the_board_have_the_speed_and_the_metrics_do_not(tmp_path):
    lines = []
    ctx = context(tmp_path, on_log=lines.append, logs=tmp_path / "logs")
    model = fresh(tmp_path / "base")
    report = RunLog(ctx, Prepared(model, small_loader(model.space, 9), small_settings(9)))
    hooks = Hooks(on_log=report.on_log, on_pace=report.on_pace, on_resume=report.on_resume)
    outcome = train(model, small_loader(model.space, 9), small_settings(9), tmp_path / "run", hooks)
    report.close()
    assert len(lines) == 3 and all("tokens/s" in line and "waiting for batches" in line for line in lines)
    assert {"tokens_per_second", "model_flops_utilisation", "peak_memory_bytes"} <= set(ctx.run_info)
    assert not any("second" in key or "speed" in key for row in outcome.rows for key in row)


def test_a_board_is_written_where_the_package_is_and_nowhere_else(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoardWriter(tmp_path / "run", 0)
    for step in (3, 6):
        board.write(step, {"loss": 1.0 / step, "loss_t2a": None})
    board.close()
    again = TensorBoardWriter(tmp_path / "run", 4)  # killed after step 6, the newest checkpoint is of step 4
    again.write(6, {"loss": 0.5})
    again.close()
    found = EventAccumulator(str(tmp_path / "run")).Reload()
    assert found.Tags()["scalars"] == ["loss"]
    assert [(one.step, round(one.value, 3)) for one in found.Scalars("loss")] == [(3, 0.333), (6, 0.5)]
    TensorBoardWriter(None, 0).write(1, {"loss": 1.0})
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    absent = TensorBoardWriter(tmp_path / "other", 0)
    absent.write(1, {"loss": 1.0})
    absent.close()
    assert not (tmp_path / "other").exists()
