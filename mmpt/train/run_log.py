"""The log of a training run: its bar, log lines, and speed for the receipt and TensorBoard."""

from __future__ import annotations

from typing import Any

from mmpt.model.checkpoints import latest
from mmpt.model.multimodal import MultimodalLM
from mmpt.store.stage import StageContext
from mmpt.store.tasks import TASKS
from mmpt.train.preparation import Prepared
from mmpt.train.speed import Pace
from mmpt.train.tensorboard import TensorBoardWriter


class RunLog:
    """What a run tells while it trains: the bar, lines in the log, speed for the receipt and for TensorBoard."""

    def __init__(self, ctx: StageContext, ready: Prepared):
        self.ctx, self.steps = ctx, ready.settings.steps
        self.pace: dict[str, Any] = {}
        self.trains = trained_parameters(ready.model)
        self.board: TensorBoardWriter | None = None

    def announce(self) -> None:
        """Print what trains, before the first step, which may be behind those of an interrupted run."""
        saved = latest(self.ctx.work / "run" / "steps")
        self.ctx.progress(int(saved.name.removeprefix("step_")) if saved else 0, self.steps, self.trains)
        self.ctx.log(self.trains)

    def on_resume(self, step: int) -> None:
        self._open(step)
        if step < self.steps:  # else workers have done all of it
            self.ctx.log(f"resumed from the checkpoint of step {step}")

    def on_pace(self, step: int, pace: Pace) -> None:
        self.pace = pace.interval()
        self.ctx.info(**pace.whole())

    def on_log(self, row: dict[str, Any]) -> None:
        losses = " ".join(
            f"{task} {row[f'loss_{task}']:.3f}" for task in (*TASKS, "text") if row[f"loss_{task}"] is not None
        )
        self.ctx.progress(row["step"], self.steps, losses)
        self.ctx.log(
            f"step {row['step']}/{self.steps}: {losses} | gradient {row['grad_norm']:.3g} "
            f"clipped {row['clipped']:.0%} | {_speed(self.pace)}"
        )
        numbers = {name: value for name, value in row.items() if name != "step"}
        self._open(0).write(row["step"], {**numbers, **{f"speed/{k}": v for k, v in self.pace.items()}})

    def _open(self, step: int) -> TensorBoardWriter:
        """TensorBoard's folder, from the first row on, or from where a run goes on."""
        if self.board is None:
            logs = self.ctx.logs
            self.board = TensorBoardWriter(logs and logs / "tensorboard" / self.ctx.work.name, step)
        return self.board

    def close(self) -> None:
        """Of a run that ended, however it did."""
        if self.board is not None:
            self.board.close()


def trained_parameters(model: MultimodalLM) -> str:
    """Trainable parameters, in all and by learning-rate group: "trains 2,113,536 parameters: 1,998,848 lora, ..."."""
    counts: dict[str, int] = {}
    for name, parameter in model.adapter_parameters().items():
        if parameter.requires_grad:
            group = model.group_of(name)
            counts[group] = counts.get(group, 0) + parameter.numel()
    parts = ", ".join(f"{count:,} {group}" for group, count in counts.items())
    return f"trains {sum(counts.values()):,} parameters: {parts}"


def _speed(pace: dict[str, Any]) -> str:
    """As in the log: 1234 tokens/s, 41.2 % of peak FLOP/s, 12.3 GiB, 0.1 % waiting for batches."""
    used = pace["model_flops_utilisation"]
    flops = f"{pace['model_flops_per_second'] / 1e9:.3g} GFLOP/s" if used is None else f"MFU {used:.1%}"
    return (
        f"{pace['tokens_per_second']:.0f} tokens/s, {flops}, peak {pace['peak_memory_bytes'] / (1 << 30):.2f} GiB, "
        f"{pace['data_wait_share']:.1%} waiting for batches"
    )
