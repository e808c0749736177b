"""Stage warmup: the new rows, on the read tasks.

Profile keys it reads: warmup (init: random; codec: rows start where the codec's code vectors lie; quiet: where text
gives them no probability. lora: peak rate at which LoRA is trained with the rows; without it, rows alone), lora,
mixture.weights, mixture.text_replay, train.row_len, train.layer_norm, train.micro_rows,
train.activation_checkpointing, train.compile, the keys of `step_options`.
"""

from __future__ import annotations

import contextlib

from mmpt.model.adapter import CONFIG, WEIGHTS
from mmpt.model.checkpoints import step_folder
from mmpt.store.errors import UserError
from mmpt.store.links import copy_file
from mmpt.store.stage import StageContext
from mmpt.train.distributed import Ranks
from mmpt.train.draws import DRAWS, write_draws
from mmpt.train.interruption import Interruption
from mmpt.train.loop import METRICS, Hooks, Outcome
from mmpt.train.loop import train as run_training
from mmpt.train.preparation import Prepared, prepare_rank, prepare_warmup
from mmpt.train.run_log import RunLog


def warmup(ctx: StageContext) -> None:
    """Trains the new rows on reading, and LoRA where `warmup.lora` says so: checkpoint/ (an adapter), metrics.jsonl,
    draws.jsonl.
    """
    ctx.spread(warmup_part)
    ready = prepare_warmup(ctx)
    outcome = _run_warmup(ctx, ready, Ranks.alone())
    if outcome.stopped:
        raise UserError("the warm-up diverged", where="warmup.lr", found=outcome.stopped, fix="lower warmup.lr")
    last = step_folder(ctx.work / "run" / "steps", outcome.step)
    for name in (WEIGHTS, CONFIG):
        copy_file(last / name, ctx.out / "checkpoint" / name)
    copy_file(ctx.work / "run" / METRICS, ctx.out / METRICS)
    write_draws(ctx.out / DRAWS, outcome.draws, ready.loader.sources)


def warmup_part(ctx: StageContext, rank: int, world: int) -> None:
    """One rank of all `world` that warm up together; the stage then finds the last checkpoint and publishes."""
    with Ranks.from_environment(ctx.device) as ranks:
        _run_warmup(ctx, prepare_rank(ctx, prepare_warmup, ranks), ranks)


def _run_warmup(ctx: StageContext, ready: Prepared, ranks: Ranks) -> Outcome:
    with Interruption() as interruption, contextlib.closing(RunLog(ctx, ready)) as report:
        if ranks.lead:
            report.announce()
        hooks = Hooks(
            on_log=report.on_log,
            on_pace=report.on_pace,
            on_resume=report.on_resume,
            asked_to_end=lambda: interruption.asked and ranks.world == 1,
        )
        return run_training(ready.model, ready.loader, ready.settings, ctx.work / "run", hooks, ranks=ranks)
