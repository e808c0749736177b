"""The training loop: batches in, checkpoints and metrics.jsonl out; it resumes from the newest checkpoint.

    folder/steps/step_<k>/    checkpoints; the newest holds the trainer state, older ones only their adapter
    folder/metrics.jsonl      one row per log interval; a resumed run removes rows after its checkpoint

Everything that a step depends on is either a function of the step (batch, learning rate) or in the checkpoint
(weights, moments, random state, the open log interval, the draws), so a run that was killed and resumed writes the
same bytes as one that was not. The loop knows nothing about tasks, codecs or profiles.

No step waits for the device. The numbers of a step stay there until a log interval, a save or a measurement is due;
then the host reads the steps one after the other. A step that must not change the weights is skipped on the device
(`DivergenceGuard`) with all steps after it, and the host stops the run at exactly that step.

Several ranks share a step's micro-batches and add up gradients and tallies, so all of them hold the same numbers and
decide alike; rank 0 alone writes. The number of ranks is not in a checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from mmpt.model.adapter import identity
from mmpt.model.checkpoints import (
    Saved,
    drop_trainer_state,
    latest,
    load_checkpoint,
    save_checkpoint,
    step_folder,
)
from mmpt.model.multimodal import MultimodalLM
from mmpt.shards.loader import Batch, Loader
from mmpt.store.canonical import canonical_json
from mmpt.store.errors import UserError
from mmpt.store.jsonl import write_jsonl
from mmpt.train.distributed import Ranks, bits
from mmpt.train.divergence_guard import DivergenceGuard
from mmpt.train.draws import Draws
from mmpt.train.meters import Interval, modality_norms, row_norms
from mmpt.train.monitors import Monitors
from mmpt.train.objective import PreparedStep, Tally, backward, decode_ranges, draws_noise, lay, read_tally
from mmpt.train.prefetch import Prefetcher
from mmpt.train.schedule import optimizer_of, rate, set_rates
from mmpt.train.settings import TrainSettings
from mmpt.train.sharding import whole
from mmpt.train.speed import Pace

METRICS = "metrics.jsonl"


@dataclass
class Outcome:
    """The end of a run.

    Args:
        step: optimizer steps done.
        stopped: why a monitor ended the run early; None: it did not.
        saved: steps with a checkpoint.
        measured: step -> result of `Hooks.measure`.
        monitors: with their worst values.
        rows: of metrics.jsonl.
        draws: of all steps done.
    """

    step: int
    stopped: str | None
    saved: list[int]
    measured: dict[str, Any]
    monitors: Monitors
    rows: list[dict[str, Any]]
    draws: Draws


@dataclass(frozen=True)
class Hooks:
    """Functions that the loop calls. None may change the model; after those at a save the random state is restored.

    Of several ranks only rank 0 calls them, except for `measure`, which must return the same on each.

    Args:
        on_log: called with each row of metrics.jsonl, after it is written.
        on_save: called with (step, folder) after each checkpoint.
        on_resume: called with the step before the first step of a run that resumes from a checkpoint.
        measure: called with the step, at the steps in `measure_at`, at each save and at the end, before the save;
            returns JSON that the checkpoint keeps. None: nothing is measured.
        on_batch: called with (step, batch) before each step.
        on_pace: called with (step, speed of the interval) before on_log.
        asked_to_end: called after each step of a run of one rank; True: save a checkpoint and raise `Interrupted`.
    """

    on_log: Callable[[dict[str, Any]], None] = lambda row: None
    on_save: Callable[[int, Path], None] = lambda step, folder: None
    on_resume: Callable[[int], None] = lambda step: None
    measure: Callable[[int], dict[str, Any]] | None = None
    measure_at: tuple[int, ...] = ()
    on_batch: Callable[[int, Batch], None] = lambda step, batch: None
    on_pace: Callable[[int, Pace], None] = lambda step, pace: None
    asked_to_end: Callable[[], bool] = lambda: False


class Interrupted(Exception):
    """The run was asked to end, and has: a checkpoint of its last step is there to resume from."""


@dataclass(frozen=True)
class _Seen:
    """A step that the host has not read.

    Args:
        numbers: fp64, on the device: the values of its tally, the gradient norm before clipping, and whether the
            divergence guard had stopped the run.
        tokens: without padding.
        draws: as in its batch.
    """

    step: int
    numbers: torch.Tensor
    tokens: int
    draws: tuple[tuple[str, int, bool], ...]

    @classmethod
    def of(cls, step: int, tally: Tally, norm: torch.Tensor, watch: DivergenceGuard, batch: Batch) -> _Seen:
        numbers = torch.cat([tally.values, norm[None], watch.stopped.double()[None]])
        return cls(step, numbers, batch.n_tokens, batch.draws)


@dataclass
class _Run:
    """All that changes while training."""

    model: MultimodalLM
    loader: Loader
    settings: TrainSettings
    folder: Path
    hooks: Hooks
    optimizer: torch.optim.Optimizer
    monitors: Monitors
    interval: Interval
    watch: DivergenceGuard
    ranks: Ranks
    noise: bool
    draws: Draws
    unseen: list[_Seen] = field(default_factory=list)
    step: int = 0
    stopped: str | None = None
    saved: list[int] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


def train(
    model: MultimodalLM,
    loader: Loader,
    settings: TrainSettings,
    folder: Path,
    hooks: Hooks = Hooks(),
    *,
    until: int | None = None,
    ranks: Ranks = Ranks.alone(),
) -> Outcome:
    """Train to step `settings.steps`, from the newest checkpoint in `folder` if there is one.

    Every rank calls this with equal arguments and gets an equal outcome.

    Args:
        until: end at this step, before the last one of the schedule.

    Raises:
        UserError: the checkpoint belongs to another token space, LoRA, row shape, data, mixture or schedule; or the
            ranks were given different models, data or settings.
        Interrupted: `hooks.asked_to_end` returned True; there is a checkpoint, and no outcome.
        RanksDiffer: the ranks' weights are no longer equal.
    """
    end = settings.steps if until is None else min(until, settings.steps)
    if ranks.world > 1:
        ranks.require_same(_facts(model, loader, settings, hooks, end))
    run = _start(_before(model, loader, settings, Path(folder), hooks, ranks))
    ranges = decode_ranges(model.space, model.device) if settings.support == "range" else None
    steps = range(run.step, end if run.stopped is None else run.step)
    pace = Pace(model, settings.support, ranks.world)
    with Prefetcher(partial(_lay, run), steps, model.device) as ahead, deterministic():
        model.train()
        pace.rest()
        for laid in ahead:
            rates = _one_step(run, laid, ranges)
            log = run.step % settings.log_every == 0 or run.step == settings.steps
            save = run.step % settings.save_every == 0 or run.step == end
            measure = save or run.step in hooks.measure_at
            if log or measure:
                _look(run)
            pace.lap(laid.batch, ahead.waited)
            if run.stopped is None and log:
                if ranks.lead:
                    hooks.on_pace(run.step, pace)
                _log(run, rates)
            if run.stopped is None and measure:
                _measure(run)
            if run.stopped is None and save:
                _save(run)
            if run.stopped is None and run.step < end and hooks.asked_to_end():
                _leave(run)
            if run.stopped is not None:
                break
            pace.rest()
        if run.stopped is not None and run.step not in run.saved:
            _measure(run)
            _save(run)
        model.eval()
    return Outcome(run.step, run.stopped, run.saved, run.measured, run.monitors, run.rows, run.draws)


def _facts(model: MultimodalLM, loader: Loader, settings: TrainSettings, hooks: Hooks, end: int) -> dict[str, Any]:
    """What every rank must have been given alike."""
    return {
        "base": bits(whole(model.frozen())),
        "adapter": bits(model.adapter_parameters()),
        "data and mixture": loader.settings,
        **identity(model),
        **asdict(settings),
        "end and measurements": [end, *hooks.measure_at],
    }


def _before(
    model: MultimodalLM, loader: Loader, settings: TrainSettings, folder: Path, hooks: Hooks, ranks: Ranks
) -> _Run:
    """A run in which nothing has happened."""
    optimizer = optimizer_of(model, settings)
    monitors = Monitors(settings.monitor_from)
    interval, watch = Interval.empty(model.space), DivergenceGuard(monitors, model.device)
    noise, draws = draws_noise(model), Draws.none(loader.sources)
    return _Run(model, loader, settings, folder, hooks, optimizer, monitors, interval, watch, ranks, noise, draws)


def _start(run: _Run) -> _Run:
    """The run with its first checkpoint, or as its newest one left it."""
    model, folder, ranks = run.model, run.folder, run.ranks
    # Rank 0 says which: it may save while others look.
    newest = ranks.from_lead(latest(folder / "steps") if ranks.lead else None)
    if newest is None:
        if ranks.lead:
            write_jsonl(folder / METRICS, [])
        _measure(run)
        _save(run)
        return run
    saved = load_checkpoint(newest, model, run.optimizer)
    if saved.schedule != run.settings.schedule():
        changed = sorted(key for key, value in run.settings.schedule().items() if saved.schedule.get(key) != value)
        raise UserError(
            "the checkpoint was made with another schedule",
            where=newest,
            found=saved.schedule.get(changed[0]),
            expected=f"{changed[0]} = {run.settings.schedule()[changed[0]]}",
        )
    run.loader.load_state_dict(saved.loader)
    run.step, run.stopped = saved.step, saved.counters["stopped"]
    run.monitors, run.interval = (
        Monitors.of(saved.counters["monitors"]),
        Interval.of(saved.counters["interval"]),
    )
    run.watch, run.draws = DivergenceGuard(run.monitors, model.device), Draws.of(saved.draws)
    run.saved, run.measured = list(saved.counters["saved"]), dict(saved.counters["measured"])
    if ranks.lead:
        run.rows = [row for row in _stored_rows(folder) if row["step"] <= run.step]
        write_jsonl(folder / METRICS, run.rows)
        run.hooks.on_resume(run.step)
    run.rows = ranks.from_lead(run.rows)
    return run


def _stored_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Rows up to the first torn line: a kill may have cut the last one."""
    path = folder / METRICS
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:
            return


def _append_row(folder: Path, row: dict[str, Any]) -> None:
    with open(folder / METRICS, "ab") as stream:
        stream.write(canonical_json(row) + b"\n")


def _lay(run: _Run, step: int) -> PreparedStep:
    """A step's micro-batches; called by the thread that works ahead."""
    pin = run.model.device.type == "cuda"
    return lay(run.loader.at(step), run.settings, packs=run.model.packs, noise=run.noise, ranks=run.ranks, pin=pin)


def _one_step(run: _Run, laid: PreparedStep, ranges: tuple[torch.Tensor, torch.Tensor] | None) -> dict[str, float]:
    """One step on the device, whatever comes out of it; returns the learning rates."""
    model, settings = run.model, run.settings
    if run.ranks.lead:
        run.hooks.on_batch(run.step, laid.batch)
    rates = set_rates(run.optimizer, rate(run.step, settings))
    run.optimizer.zero_grad(set_to_none=True)
    tally = backward(model, laid, settings, ranges, run.step, run.ranks)
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    gradients = _gradients(parameters)
    run.ranks.sum_([*gradients, tally.values])
    total = get_total_norm(gradients)
    norm = total.double()
    run.watch.judge(run.step, tally.objective, norm)
    clip_grads_with_norm_(parameters, settings.clip, total)
    # Fused AdamW leaves everything as it is where this is 1.
    run.optimizer.found_inf = run.watch.stopped  # type: ignore[attr-defined]  # an attribute that torch looks up
    run.optimizer.step()
    run.unseen.append(_Seen.of(run.step, tally, norm, run.watch, laid.batch))
    run.step += 1
    return rates


def rehearse(
    model: MultimodalLM, loader: Loader, settings: TrainSettings, pieces: int, steps: Iterable[int]
) -> torch.optim.Optimizer:
    """Allocate what a step allocates once AdamW's moments exist. Nothing is read back, so it runs on device "meta".

    Args:
        pieces: how many micro-batches run, those with most tokens of the `steps` that are laid out.

    Returns:
        The optimizer, which holds the moments; the parameters hold their gradients.
    """
    run = _before(model, loader, settings, Path(os.devnull), Hooks(), Ranks.alone())
    _gradients([p for group in run.optimizer.param_groups for p in group["params"]])
    run.optimizer.step()
    laid = [_lay(run, step) for step in steps]
    longest = sorted((piece for one in laid for piece in one.pieces), key=lambda piece: -piece.input_ids.numel())
    ranges = decode_ranges(model.space, model.device) if settings.support == "range" else None
    _one_step(run, replace(laid[0], pieces=tuple(longest[:pieces])), ranges)
    return run.optimizer


def _gradients(parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    """Their gradients; zeros where this rank's share of the step did not touch one."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _look(run: _Run) -> None:
    """Judge and count the steps since the last look; a stopped run goes back to the step that stopped it."""
    if not run.unseen:
        return
    numbers = torch.stack([one.numbers for one in run.unseen]).cpu().numpy()
    run.ranks.require_equal(run.step, run.model.adapter_parameters())
    for one, (*values, norm, stopped) in zip(run.unseen, numbers.tolist(), strict=True):
        objective, sums = read_tally(np.array(values), run.model.space)
        run.stopped = run.monitors.after_backward(one.step, objective, norm, run.settings.clip)
        if bool(stopped) != (run.stopped is not None):
            raise RuntimeError(f"step {one.step}: watch {stopped}, monitors {run.stopped}: they must agree")
        if run.stopped is not None:
            run.step = one.step
            break
        run.interval.add(sums, objective, norm, run.settings.clip, one.tokens)
        run.draws.add(one.draws)
    run.unseen = []
    if run.step == 0:
        run.optimizer.state.clear()  # the skipped first step left zeros where there was nothing


def _log(run: _Run, rates: dict[str, float]) -> None:
    norms = row_norms(run.model)
    run.stopped = run.monitors.at_log(run.step, norms)
    row = run.interval.row(run.model.space, run.step, rates, norms, modality_norms(run.model))
    run.rows.append(row)
    run.interval = Interval.empty(run.model.space)
    if run.ranks.lead:
        _append_row(run.folder, row)
        run.hooks.on_log(row)


def _measure(run: _Run) -> None:
    if run.hooks.measure is None or str(run.step) in run.measured:
        return
    with untouched(run.model):
        run.measured[str(run.step)] = run.hooks.measure(run.step)


def _save(run: _Run) -> None:
    if run.step not in run.saved:
        run.saved.append(run.step)
    if run.ranks.lead:
        _write_checkpoint(run)
    run.ranks.barrier()


def _leave(run: _Run) -> None:
    """Save where the run is, which its outcome does not list, and end it; a run that diverged goes on to say so."""
    _look(run)
    if run.stopped is None:
        _save_state(run)
        raise Interrupted(run.step)


def _write_checkpoint(run: _Run) -> None:
    folder = _save_state(run)
    for older in run.saved[:-1]:
        drop_trainer_state(step_folder(run.folder / "steps", older))
    with untouched(run.model):
        run.hooks.on_save(run.step, folder)


def _save_state(run: _Run) -> Path:
    """A whole checkpoint of this step; those of earlier interruptions are no longer of use."""
    steps = run.folder / "steps"
    folder = step_folder(steps, run.step)
    counters = {
        "stopped": run.stopped,
        "monitors": run.monitors.state(),
        "interval": run.interval.state(),
        "saved": run.saved,
        "measured": run.measured,
    }
    run.loader.next_step = run.step
    saved = Saved(run.step, run.settings.schedule(), run.loader.state_dict(), counters, run.draws.tensors())
    save_checkpoint(folder, run.model, run.optimizer, saved)
    for other in set(steps.glob("step_*")) - {step_folder(steps, step) for step in (*run.saved, run.step)}:
        shutil.rmtree(other)
    return folder


@contextlib.contextmanager
def untouched(model: MultimodalLM) -> Iterator[None]:
    """Evaluation mode without gradients inside; mode and random state come back after."""
    was_training = model.training
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        model.eval()
        yield
    model.train(was_training)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Only operators whose result does not depend on timing; one without such a form raises."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False  # for finding reads of empty(); costs 2 % of a step
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        settings.fill_uninitialized_memory = before[1]
