"""Stages warmup and train. Profile keys they read:

warmup   warmup (init: random; codec: rows start where the codec's code vectors lie; quiet: where text gives them no
         probability. lora: peak rate at which LoRA is trained with the rows; without it, rows alone), lora,
         mixture.weights, mixture.text_replay, train.row_len,
         train.layer_norm, train.micro_rows, train.activation_checkpointing, train.compile, the keys of `step_options`
train    train, lora, mixture, examples.max_seq_len
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmpt.codecs.registry import CODE_VECTORS
from mmpt.model.adapter import CONFIG, WEIGHTS
from mmpt.model.checkpoints import STATE, step_folder
from mmpt.model.multimodal import MultimodalLM
from mmpt.shards.example_set import ExampleSet
from mmpt.shards.loader import Loader, Source, make_loader
from mmpt.shards.shard_set import TASK_MODALITY
from mmpt.shards.text_set import TextSet
from mmpt.store.canonical import write_json
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError
from mmpt.store.evidence import write_evidence
from mmpt.store.model_files import check_positions
from mmpt.store.stage import StageContext
from mmpt.store.tensors import load_tensors
from mmpt.tokens.formats import TASKS
from mmpt.tokens.space import TokenSpace, load
from mmpt.train.distributed import Ranks
from mmpt.train.draws import DRAWS, draw_metrics, never_drawn_metrics, write_draws
from mmpt.train.evidence import loss_metrics, stability_metrics
from mmpt.train.heldout import item_losses, sample
from mmpt.train.independent import independent_metrics
from mmpt.train.loop import METRICS, Hooks, Outcome
from mmpt.train.loop import train as run_training
from mmpt.train.objective import OPEN_PIECES
from mmpt.train.settings import TrainSettings, step_options
from mmpt.train.sharding import shard_base
from mmpt.train.speed import Pace
from mmpt.train.tensorboard import TensorBoardWriter

VAL_ITEMS, TEST_ITEMS = 24, 64  # a task, for the choice of the best checkpoint and for gate B1
REPLAY_TOKENS = 128  # of one sequence of replayed text
WARMUP_SAVE_EVERY = 500


@dataclass(frozen=True)
class Prepared:
    """A model, batches and settings, ready to train."""

    model: MultimodalLM
    loader: Loader
    settings: TrainSettings


def prepare_warmup(ctx: StageContext, *, layers_aside: bool = False) -> Prepared:
    """Base with fresh rows, read tasks only; layers_aside: of `from_base`. Only the rows are trainable, unless
    `warmup.lora` gives LoRA a rate: then the mixture's share of plain text preserves the text model.
    """
    space, profile = load(ctx.inputs["token_space"]), ctx.profile
    steps, lr, lora = profile["warmup.steps"], profile["warmup.lr"], profile.get("warmup.lora")
    model = _model(ctx, space, layers_aside)
    init = profile.get("warmup.init", "random")
    if init == "codec":
        model.start_rows_from_codes(_code_vectors(ctx.inputs["codecs"], space), seed=ctx.seed)
    elif init == "quiet":
        model.start_rows_quietly(seed=ctx.seed)
    if lora is None:
        model.train_rows_only()
    weights = {task: profile["mixture.weights"].get(task, 0) for task in ("a2t", "i2t")}
    replay = profile["mixture.text_replay"] if lora is not None else 0.0
    loader = make_loader(
        _with_text(ctx, space, _sources(ctx, space, weights), replay),
        weights=_present(space, weights),
        text_replay=replay,
        ramp=0.0,
        steps=max(steps, 1),
        tokens_per_step=profile["warmup.tokens_per_step"],
        row_len=profile["train.row_len"],
        pad_id=space.special("pad_mm"),
        prompt_dropout=0.0,
        seed=ctx.seed,
    )
    settings = TrainSettings(
        steps,
        {"lora": lora or lr, "embed": lr, "head": lr},
        warmup_steps=min(profile["train.warmup_steps"], steps // 5),
        save_every=WARMUP_SAVE_EVERY,
        micro_rows=profile.get("train.micro_rows", 0),
        seed=ctx.seed,
        **step_options(profile),
    )
    return Prepared(model, loader, settings)


def prepare_train(ctx: StageContext, *, layers_aside: bool = False) -> Prepared:
    """The model after warm-up, rows and LoRA trainable, and the whole mixture. layers_aside: of `from_base`."""
    space, profile = load(ctx.inputs["token_space"]), ctx.profile
    model = _model(ctx, space, layers_aside)
    model.load_adapter(ctx.inputs["warmup"] / "checkpoint")
    weights, replay = dict(profile["mixture.weights"]), profile["mixture.text_replay"]
    steps, ramp = profile["train.steps"], profile["mixture.ramp"]
    loader = make_loader(
        _with_text(ctx, space, _sources(ctx, space, weights), replay),
        weights=_present(space, weights),
        text_replay=replay,
        ramp=ramp,
        steps=steps,
        tokens_per_step=profile["train.tokens_per_step"],
        row_len=profile["train.row_len"],
        pad_id=space.special("pad_mm"),
        prompt_dropout=profile["mixture.prompt_dropout"],
        seed=ctx.seed,
    )
    settings = TrainSettings(
        steps,
        dict(profile["train.lr"]),
        warmup_steps=profile["train.warmup_steps"],
        save_every=profile["train.save_every"],
        monitor_from=max(profile["train.warmup_steps"], ramp_end(loader)),
        micro_rows=profile.get("train.micro_rows", 0),
        seed=ctx.seed,
        **step_options(profile),
    )
    return Prepared(model, loader, settings)


def ramp_end(loader: Loader) -> int:
    """First step with the mixture's full weights."""
    return loader.mixture.ramp_start + loader.mixture.ramp_steps


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
        _copy(last / name, ctx.out / "checkpoint" / name)
    _copy(ctx.work / "run" / METRICS, ctx.out / METRICS)
    write_draws(ctx.out / DRAWS, outcome.draws, ready.loader.sources)


def warmup_part(ctx: StageContext, rank: int, world: int) -> None:
    """One rank of all `world` that warm up together; the stage then finds the last checkpoint and publishes."""
    with Ranks.from_environment(ctx.device) as ranks:
        _run_warmup(ctx, _prepared(ctx, prepare_warmup, ranks), ranks)


def _run_warmup(ctx: StageContext, ready: Prepared, ranks: Ranks) -> Outcome:
    with contextlib.closing(_Report(ctx, ready)) as report:
        if ranks.lead:
            report.announce()
        hooks = Hooks(on_log=report.on_log, on_pace=report.on_pace, on_resume=report.on_resume)
        return run_training(ready.model, ready.loader, ready.settings, ctx.work / "run", hooks, ranks=ranks)


def _prepared(ctx: StageContext, prepare: Callable[..., Prepared], ranks: Ranks) -> Prepared:
    """A rank's part: with `shard_base`, its share of the base's layers."""
    if not ctx.launcher.shard_base:
        return prepare(ctx)
    ready = prepare(replace(ctx, device="cpu"), layers_aside=True)
    shard_base(ready.model, ranks, ctx.device)
    return ready


def train(ctx: StageContext) -> None:
    """Stage 4: checkpoints/, checkpoints.json, metrics.jsonl, draws.jsonl, drops.json, evidence/B1 and B2."""
    ctx.spread(train_part)
    ready = prepare_train(ctx)
    exam = _Exam(ctx, ready)
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
        ready = _prepared(ctx, prepare_train, ranks)
        _run(ctx, ready, _Exam(ctx, ready), ranks)


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


def _run(ctx: StageContext, ready: Prepared, exam: _Exam, ranks: Ranks) -> Outcome:
    with contextlib.closing(_Report(ctx, ready)) as report:
        if ranks.lead:
            report.announce()
        hooks = Hooks(
            on_log=report.on_log,
            on_pace=report.on_pace,
            on_save=ctx.on_save or (lambda step, folder: None),
            on_resume=report.on_resume,
            measure=exam.measure,
            measure_at=(ramp_end(ready.loader),),
        )
        return run_training(ready.model, ready.loader, ready.settings, ctx.work / "run", hooks, ranks=ranks)


def _model(ctx: StageContext, space: TokenSpace, layers_aside: bool = False) -> MultimodalLM:
    model = MultimodalLM.from_base(
        ctx.inputs["base"] / "model",
        space,
        ctx.profile["lora"],
        seed=ctx.seed,
        dtype=getattr(torch, ctx.dtype),
        device=ctx.device,
        layer_norm=ctx.profile.get("train.layer_norm", False),
        layers_aside=layers_aside,
    )
    check_positions(model.config.to_dict(), ctx.profile.get("examples.max_seq_len", 0))
    model.checkpoint_layers(ctx.profile.get("train.activation_checkpointing", False))
    if ctx.profile.get("train.compile", False):
        model.compile_layers()
    return model


def _code_vectors(codecs: Path, space: TokenSpace) -> dict[str, torch.Tensor]:
    """Range name -> code vectors [size, D], of the codecs that have some.

    Raises:
        UserError: none of the codecs has code vectors.
    """
    names = {"image": ["IMAGE"], "audio": [f"AUDIO_CB{index}" for index in range(space.n_codebooks)]}
    found: dict[str, torch.Tensor] = {}
    for modality, ranges in names.items():
        path = codecs / modality / CODE_VECTORS
        if path.is_file():
            found |= dict(zip(ranges, load_tensors(path, "torch")["vectors"], strict=True))
    if not found:
        raise UserError(
            "no codec of this run offers code vectors",
            where="warmup.init",
            found="codec",
            fix="set warmup.init: random",
        )
    return found


def _present(space: TokenSpace, weights: dict[str, float]) -> dict[str, float]:
    """Weights of the tasks whose modality the token space has."""
    there = {"image": space.image_range is not None, "audio": bool(space.audio_ranges)}
    return {task: weight for task, weight in weights.items() if there[TASK_MODALITY[task]]}


def _sources(
    ctx: StageContext, space: TokenSpace, weights: dict[str, float], split: str = "train"
) -> dict[str, ExampleSet]:
    wanted = [task for task, weight in _present(space, weights).items() if weight > 0]
    return {task: ExampleSet.open(ctx.inputs["examples"], ctx.inputs["shards"], space, task, split) for task in wanted}


def _with_text(
    ctx: StageContext, space: TokenSpace, sources: Mapping[str, ExampleSet], replay: float
) -> dict[str, Source]:
    """The sources, with plain text beside them where it has a share."""
    if replay <= 0:
        return dict(sources)
    length = min(REPLAY_TOKENS, ctx.profile["train.row_len"])
    folder = ctx.inputs["token_space"]
    return {**sources, "text": TextSet.open(folder / "text_train.txt", folder, space, length)}


class _Report:
    """What a run tells while it trains: the bar, lines in the log, speed for the receipt and for TensorBoard."""

    def __init__(self, ctx: StageContext, ready: Prepared):
        self.ctx, self.steps = ctx, ready.settings.steps
        self.pace: dict[str, Any] = {}
        self.trains = trained_parameters(ready.model)
        self.board: TensorBoardWriter | None = None

    def announce(self) -> None:
        """Print what trains, before the first step."""
        self.ctx.progress(0, self.steps, self.trains)
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


class _Exam:
    """Held-out losses of a run: val at the saves, test at the ramp's end and at the end."""

    def __init__(self, ctx: StageContext, ready: Prepared):
        self.model, self.settings = ready.model, ready.settings
        self.row_len, self.ramp_end = ready.loader.row_len, ramp_end(ready.loader)
        self.best = keeps_best(ctx)
        weights = ctx.profile["mixture.weights"]
        self.val = _sources(ctx, ready.model.space, weights, "val")
        self.test = _sources(ctx, ready.model.space, weights, "test")

    def measure(self, step: int) -> dict[str, Any]:
        """{"val": {task: mean}, "test": {task: item means}}, each where it is due. Test losses judge the checkpoint
        that is kept, which val losses choose.
        """
        saved = step % self.settings.save_every == 0
        ended = step == self.settings.steps or not (saved or step == self.ramp_end)
        out: dict[str, Any] = {"val": None, "test": None}
        if saved or ended:
            losses = self._losses(self.val, VAL_ITEMS)
            out["val"] = {task: float(one.full.mean()) for task, one in losses.items()}
        if ended or step == self.ramp_end or (self.best and saved and step > self.ramp_end):
            losses = self._losses(self.test, TEST_ITEMS)
            out["test"] = {task: one.full.tolist() for task, one in losses.items()}
        return out

    def _losses(self, sets: dict[str, ExampleSet], count: int):
        return {
            task: item_losses(self.model, examples, sample(examples, count), self.row_len)
            for task, examples in sets.items()
            if len(examples)
        }

    def tested(self) -> dict[str, tuple[ExampleSet, list[int]]]:
        """Task -> (test examples, indices of those that are measured)."""
        return {task: (one, sample(one, TEST_ITEMS)) for task, one in self.test.items() if len(one)}


def keeps_best(ctx: StageContext) -> bool:
    """Whether the best checkpoint on val is judged and released, and not the last one (train.keep)."""
    return bool(ctx.profile.get("train.keep", "last") == "best")


def chosen(val: Mapping[str, Mapping[str, float] | None], last: str) -> str:
    """The checkpoint with the lowest mean over the tasks of the val loss; `last` where none has one."""
    means = {name: float(np.mean(list(losses.values()))) for name, losses in val.items() if losses}
    return min(means, key=lambda name: means[name]) if means else last


def _publish(ctx: StageContext, outcome: Outcome, ramp: int) -> int:
    """Checkpoints (the last one whole, the others as adapters), their list, metrics and drop counts.

    Returns the step of the checkpoint that is judged: with train.keep: best, of those behind the ramp's end.
    """
    names = {step: f"step_{step}" for step in outcome.saved}
    for step, name in names.items():
        source = step_folder(ctx.work / "run" / "steps", step)
        for file in (WEIGHTS, CONFIG, STATE) if step == outcome.step else (WEIGHTS, CONFIG):
            _copy(source / file, ctx.out / "checkpoints" / name / file)
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
            "stopped": outcome.stopped,
        },
    )
    _copy(ctx.work / "run" / METRICS, ctx.out / METRICS)
    _copy(ctx.inputs["examples"] / "drops.json", ctx.out / "drops.json")
    return steps[kept]


def _write_evidence(ctx: StageContext, ready: Prepared, exam: _Exam, outcome: Outcome, kept: int) -> None:
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


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
