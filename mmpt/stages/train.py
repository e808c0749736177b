"""Stage train: stage 4, read and emit, for gates B1 and B2. Profile keys it reads: train, lora, mixture,
examples.max_seq_len.
"""

from __future__ import annotations

import contextlib

from mmpt.model.adapter import CONFIG, WEIGHTS
from mmpt.model.checkpoints import STATE, step_folder
from mmpt.store.canonical import write_json
from mmpt.store.digests import sha256_file
from mmpt.store.evidence import write_evidence
from mmpt.store.links import copy_file
from mmpt.store.stage import StageContext
from mmpt.train.distributed import Ranks
from mmpt.train.draws import DRAWS, draw_metrics, never_drawn_metrics, write_draws
from mmpt.train.evidence import loss_metrics, stability_metrics
from mmpt.train.heldout_losses import HeldoutLosses, chosen, keeps_best, loss_curve
from mmpt.train.independent import independent_metrics
from mmpt.train.interruption import Interruption
from mmpt.train.loop import METRICS, Hooks, Outcome
from mmpt.train.loop import train as run_training
from mmpt.train.objective import OPEN_PIECES
from mmpt.train.preparation import Prepared, prepare_rank, prepare_train
from mmpt.train.run_log import RunLog


def train(ctx: StageContext) -> None:
    """Stage 4: checkpoints/, checkpoints.json, metrics.jsonl, draws.jsonl, drops.json, evidence/B1 and B2."""
    ctx.spread(train_part)
    ready = prepare_train(ctx)
    exam = HeldoutLosses(ctx, ready)
    outcome = _run(ctx, ready, exam, Ranks.alone())
    if outcome.stopped:
        ctx.log(f"stopped: {outcome.stopped}")
    kept = _publish(ctx, outcome, exam.ramp_end)
    write_draws(ctx.out / DRAWS, outcome.draws, ready.loader.sources)
    _write_evidence(ctx, ready, exam, outcome, kept)


def train_part(ctx: StageContext, rank: int, world: int) -> None:
    """One rank of all `world` that train together; the stage then finds the last checkpoint and publishes."""
    if rank == 0:
        _mind(ctx, world)
    with Ranks.from_environment(ctx.device) as ranks:
        ready = prepare_rank(ctx, prepare_train, ranks)
        _run(ctx, ready, HeldoutLosses(ctx, ready), ranks)


def _mind(ctx: StageContext, world: int) -> None:
    """What several ranks change; rank 0 says it."""
    noisy = ctx.profile["lora"].get("dropout", 0.0) > 0
    if noisy and not ctx.profile.get("train.micro_rows", 0) and world > OPEN_PIECES:
        ctx.log(
            f"{world - OPEN_PIECES} of {world} ranks have nothing to do: with dropout and an open train.micro_rows a "
            f"step has at most {OPEN_PIECES} micro-batches; set train.micro_rows: 1 for a new run"
        )
    if ctx.launcher.shard_base and ctx.on_save is not None:
        ctx.on_save = None  # it needs a whole base, for which a device that holds a share need have no room
        ctx.log("launcher.shard_base: stage trend looks at the checkpoints, after the training")


def _run(ctx: StageContext, ready: Prepared, exam: HeldoutLosses, ranks: Ranks) -> Outcome:
    with Interruption() as interruption, contextlib.closing(RunLog(ctx, ready)) as report:
        if ranks.lead:
            report.announce()
        hooks = Hooks(
            asked_to_end=lambda: interruption.asked and ranks.world == 1,
            on_log=report.on_log,
            on_pace=report.on_pace,
            on_save=ctx.on_save or (lambda step, folder: None),
            on_resume=report.on_resume,
            measure=exam.measure,
            measure_at=(exam.ramp_end, *sorted(exam.curve)),
        )
        return run_training(ready.model, ready.loader, ready.settings, ctx.work / "run", hooks, ranks=ranks)


def _publish(ctx: StageContext, outcome: Outcome, ramp: int) -> int:
    """Checkpoints (the last one whole, the others as adapters), their list, metrics and drop counts.

    Returns the step of the checkpoint that is judged: with train.keep: best, of those behind the ramp's end.
    """
    names = {step: f"step_{step}" for step in outcome.saved}
    for step, name in names.items():
        source = step_folder(ctx.work / "run" / "steps", step)
        for file in (WEIGHTS, CONFIG, STATE) if step == outcome.step else (WEIGHTS, CONFIG):
            copy_file(source / file, ctx.out / "checkpoints" / name / file)
    val = {names[step]: outcome.measured[str(step)]["val"] for step in outcome.saved}
    steps = {name: step for step, name in names.items()}
    last = names[outcome.step]
    whole = {name: losses for name, losses in val.items() if steps[name] > ramp}
    kept = chosen(whole, last) if keeps_best(ctx) else last
    write_json(
        ctx.out / "checkpoints.json",
        {
            "initial": names[outcome.saved[0]],
            "final": kept,
            "best": chosen(val, last),
            "saved": [names[step] for step in outcome.saved],
            "val_loss": val,
            "test_curve": loss_curve(outcome.measured),
            "stopped": outcome.stopped,
        },
    )
    copy_file(ctx.work / "run" / METRICS, ctx.out / METRICS)
    copy_file(ctx.inputs["examples"] / "drops.json", ctx.out / "drops.json")
    return steps[kept]


def _write_evidence(ctx: StageContext, ready: Prepared, exam: HeldoutLosses, outcome: Outcome, kept: int) -> None:
    final = ctx.out / "checkpoints" / f"step_{kept}" / WEIGHTS
    subject = {"checkpoint": sha256_file(final), "token_space": ready.model.space.digest}
    end, start = outcome.measured[str(kept)], outcome.measured.get(str(exam.ramp_end)) or {}
    reached = kept > exam.ramp_end
    losses = end["test"] or {}
    metrics = [
        *loss_metrics((start.get("test") or {}) if reached else {}, losses),
        *independent_metrics(ctx, final.parent, ready.model.space, exam.tested(), losses),
    ]
    notes = [
        f"ramp's end: step {exam.ramp_end}",
        *([f"judged: step {kept}, the best on val of {outcome.step}"] if kept != outcome.step else []),
        *([f"stopped: {outcome.stopped}"] if outcome.stopped else []),
    ]
    write_evidence(ctx.out, "B1", metrics, subject=subject, notes=notes)
    stability = stability_metrics(outcome.monitors, outcome.step, ready.settings.steps)
    drawn = draw_metrics(ctx.out / DRAWS, ctx.inputs["split"] / "split.jsonl")
    seen = [*drawn, *never_drawn_metrics(outcome.draws)]
    write_evidence(ctx.out, "B2", [*stability, *seen], subject=subject, notes=notes)
