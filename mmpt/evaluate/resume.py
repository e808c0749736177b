"""Gate C4's measure: N + M steps in one go against N steps, a save, a new process, and M more.

Three short runs of the real training loop on the run's own data, with `train.steps` = N + M so that ramp and
schedule pass by in full. Both ways start from the warm-up, and draw one random number for each batch, so that a
random state that is not restored shows even where no dropout draws from it. The checkpoint of step N lies inside a
log interval and holds a measurement, so that these have something to lose.

What is compared is all that a checkpoint carries, and what it must carry is listed here and not taken from the file:
a part that nobody saves would be equally absent on both sides.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmpt.evaluate.checkpoint import release_memory
from mmpt.model.adapter import WEIGHTS
from mmpt.model.checkpoints import STATE, load_checkpoint, step_folder
from mmpt.ops import adopt
from mmpt.shards.loader import Batch
from mmpt.store.canonical import read_json, write_json
from mmpt.store.errors import UserError
from mmpt.store.evidence import Metric
from mmpt.store.jsonl import read_jsonl
from mmpt.store.stage import SliceView, StageContext, StageJob
from mmpt.store.tensors import load_tensors, read_meta, save_tensors
from mmpt.train.loop import METRICS, Hooks, train
from mmpt.train.monitors import Monitors
from mmpt.train.preparation import Prepared, prepare_train
from mmpt.train.schedule import optimizer_of
from mmpt.train.settings import TrainSettings

NEVER = 1 << 30


def check_resume(ctx: StageContext) -> tuple[list[Metric], dict[str, Any]]:
    """Metrics and details of gate C4. RuntimeError with its words when the new process fails."""
    before, after = ctx.profile["evaluate.resume.before"], ctx.profile["evaluate.resume.after"]
    short = _short_context(ctx, before + after)
    once, twice = ctx.work / "once", ctx.work / "twice"
    for leftover in (once, twice):  # of an attempt that was killed: its notes would be of fewer steps
        shutil.rmtree(leftover, ignore_errors=True)
    ctx.progress(0, 4, f"{before + after} steps at once")
    prepared = run_until(short, once, before + after, before)
    ctx.progress(1, 4, "checkpoints that must be refused")
    absent = missing(prepared, step_folder(once / "steps", before + after))
    refused = refusals(prepared, step_folder(once / "steps", before + after), ctx.work / "forged")
    del prepared  # the device holds one model at a time, and none while the new process has its own
    release_memory()
    ctx.progress(2, 4, f"{before} steps")
    run_until(short, twice, before, before)
    release_memory()
    ctx.progress(3, 4, f"a new process, {after} more")
    _in_new_process(short, twice, before + after, before)
    differing = {**compare(once, twice, before + after), "state_missing": absent}
    metrics = [Metric(name, len(found), n, "", "lower") for name, (found, n) in differing.items()]
    metrics += [
        Metric(
            "mismatches_not_refused",
            sum(not said for said in attempts.values()),
            len(attempts),
            "attempts",
            "lower",
            slice=kind,
        )
        for kind, attempts in refused.items()
    ]
    details = {
        "before": before,
        "after": after,
        "refusals": refused,
        "differing": {name: found[:10] for name, (found, _) in differing.items()},
    }
    return metrics, details


def run_until(ctx: StageContext, folder: Path, until: int, before: int) -> Prepared:
    """Trains up to step `until`, from the warm-up or the newest checkpoint in `folder`; notes its batches.

    Both ways take a measurement at step `before`, where one of them is interrupted.
    """
    torch.manual_seed(ctx.seed)
    prepared = prepare_train(ctx)
    seen: dict[str, Any] = {}

    def note(step: int, batch: Batch) -> None:
        seen[str(step)] = {"batch": batch.digest(), "drawn": float(torch.rand(()))}

    train(
        prepared.model,
        prepared.loader,
        replace(prepared.settings, log_every=log_every(before), save_every=NEVER),
        folder,
        Hooks(on_batch=note, measure=lambda step: {"step": step}, measure_at=(before,)),
        until=until,
    )
    notes = folder / "seen.json"
    write_json(notes, {**(read_json(notes) if notes.is_file() else {}), **seen})
    return prepared


def log_every(before: int) -> int:
    """Steps of a log interval that is open after `before` steps."""
    return next(steps for steps in range(2, before + 3) if before % steps)


def _short_context(ctx: StageContext, steps: int) -> StageContext:
    """The context of a train stage with `steps` steps."""
    profile: dict[str, Any] = {}
    for key, value in ctx.profile.as_dict().items():
        if value is not None:  # a declared key that the profile leaves out
            _put(profile, key.split("."), value)
    profile = json.loads(json.dumps(profile))
    profile["train"]["steps"] = steps
    view = SliceView(profile, tuple(profile), ctx.name)
    return replace(ctx, profile=view, on_progress=_silent, on_log=_silent)


def _put(nested: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        nested = nested.setdefault(part, {})
    nested[path[-1]] = {**nested.get(path[-1], {}), **value} if isinstance(value, Mapping) else value


def _silent(*_: Any) -> None:
    return None


def _in_new_process(ctx: StageContext, folder: Path, until: int, before: int) -> None:
    """`python -m mmpt.evaluate.resume <job>`: nothing of this process but files reaches it."""
    job = ctx.work / "job.json"
    write_json(
        job,
        {
            "job": StageJob(**ctx.as_job()).to_json(),
            "folder": str(folder),
            "until": until,
            "before": before,
        },
    )
    done = subprocess.run(
        [sys.executable, "-m", "mmpt.evaluate.resume", str(job)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(ctx.threads)},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the resumed process ended with {done.returncode}: {done.stderr.strip()[-2000:]}")


def compare(once: Path, twice: Path, step: int) -> dict[str, tuple[list[str], int]]:
    """(names that differ, number compared) of each part of a checkpoint, and of batches and logged losses."""
    folders = [step_folder(root / "steps", step) for root in (once, twice)]
    found = {"parameters_differing": _unequal(*(load_tensors(folder / WEIGHTS, "torch") for folder in folders))}
    states = [load_tensors(folder / STATE, "torch") for folder in folders]
    for name, prefix in (("optimizer_tensors_differing", "optimizer."), ("rng_states_differing", "rng.")):
        found[name] = _unequal(*({k: v for k, v in state.items() if k.startswith(prefix)} for state in states))
    seen = [read_json(root / "seen.json") for root in (once, twice)]
    found["batches_differing"] = _unlike(*({k: v["batch"] for k, v in one.items()} for one in seen))
    drawn = _unlike(*({f"draw {k}": v["drawn"] for k, v in one.items()} for one in seen))
    found |= _counters_differing(*(read_meta(folder / STATE) for folder in folders), *states)
    rng = found["rng_states_differing"]
    found["rng_states_differing"] = (rng[0] + drawn[0], rng[1] + drawn[1])
    rows = [{f"step {row['step']}": row for row in read_jsonl(root / METRICS)} for root in (once, twice)]
    found["losses_differing"] = _unlike(*rows)
    return found


# A checkpoint's list of saved steps is left out: one of the two ways saves once more than the other.
_COUNTERS = ("stopped", "monitors", "interval", "measured")


def _counters_differing(
    one: Mapping[str, Any], two: Mapping[str, Any], *states: Mapping[str, torch.Tensor]
) -> dict[str, tuple[list[str], int]]:
    """The same for schedule, sampler, monitors and open log interval: headers and tensors of two checkpoints."""
    drawn = [{k: v for k, v in state.items() if k.startswith("draws.")} for state in states]
    names, n = _unequal(*drawn)
    cursors, n_cursors = _unlike(_flat(one["loader"]), _flat(two["loader"]))
    counters = [{key: meta["counters"].get(key) for key in _COUNTERS} for meta in (one, two)]
    monitors = [_flat(both.pop("monitors") or {}) for both in counters]
    return {
        "schedule_differing": _unlike(_flat(one["schedule"]), _flat(two["schedule"])),
        "sampler_differing": (names + cursors, n + n_cursors),
        "monitors_differing": _unlike(*monitors),
        "intervals_differing": _unlike(*map(_flat, counters)),
    }


def _flat(nested: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{"a.b": value} of {"a": {"b": value}}."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


def missing(prepared: Prepared, checkpoint: Path) -> tuple[list[str], int]:
    """(parts that a checkpoint must carry and this one does not, number of parts)."""
    tensors, meta = load_tensors(checkpoint / STATE, "torch"), read_meta(checkpoint / STATE)
    present = {*tensors, *load_tensors(checkpoint / WEIGHTS, "torch"), *_keys(meta)}
    wanted = must_carry(prepared)
    return sorted(wanted - present), len(wanted)


def _keys(nested: Mapping[str, Any], above: str = "") -> set[str]:
    """Every key of a nested mapping, with those above it: "a", "a.b"."""
    inner = (_keys(value, f"{above}{key}.") for key, value in nested.items() if isinstance(value, Mapping))
    return {f"{above}{key}" for key in nested}.union(*inner)


def must_carry(prepared: Prepared) -> set[str]:
    """Names of all that a run needs to go on: tensors, and keys of the header."""
    model, kinds = prepared.model, prepared.loader.sources
    trained = {name for name, p in model.adapter_parameters().items() if p.requires_grad}
    moments = {f"optimizer.{key}.{name}" for key in ("step", "exp_avg", "exp_avg_sq") for name in trained}
    settings = {one.name for one in fields(TrainSettings)} - {"log_every", "save_every"}
    return {
        *model.adapter_parameters(),
        *moments,
        *({"rng.cpu", "rng.cuda"} if model.device.type == "cuda" else {"rng.cpu"}),
        *(f"draws.{kind}" for kind in kinds),
        *(f"loader.cursors.{kind}" for kind in kinds),
        *(f"loader.{key}" for key in ("next_step", "settings")),
        *(f"schedule.{name}" for name in settings),
        *(f"counters.monitors.{one.name}" for one in fields(Monitors)),
        *(f"counters.interval.{key}" for key in ("nll", "count", "objective", "steps", "clipped", "tokens")),
        *(f"counters.{key}" for key in ("stopped", "saved", "measured")),
        *("step", "token_space", "lora", "rows", "tied"),
    }


def _unequal(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> tuple[list[str], int]:
    names = sorted({*one, *two})
    return [n for n in names if n not in one or n not in two or not torch.equal(one[n], two[n])], len(names)


def _unlike(one: Mapping[str, Any], two: Mapping[str, Any]) -> tuple[list[str], int]:
    names = sorted({*one, *two})
    return [n for n in names if one.get(n) != two.get(n)], len(names)


def refusals(prepared: Prepared, checkpoint: Path, work: Path) -> dict[str, dict[str, str | None]]:
    """By kind of mismatch and attempt: what loading said, or None where it loaded."""
    attempts: dict[str, dict[str, Callable[[dict, dict], Any]]] = {
        "token_space": {"other digest": lambda tensors, meta: meta.update(token_space="0" * 64)},
        "row_shape": {
            "one row more": _one_row_more,
            "one row more, header as before": lambda tensors, meta: _grow(tensors),
        },
        "lora_config": {
            "other rank": lambda tensors, meta: meta["lora"].update(r=meta["lora"]["r"] + 1),
            "other modules": lambda tensors, meta: meta["lora"]["target_modules"].pop(),
        },
    }
    return {
        kind: {
            name: _said(prepared, forge(checkpoint, work / f"{kind}-{i}", change))
            for i, (name, change) in enumerate(ways.items())
        }
        for kind, ways in attempts.items()
    }


def _one_row_more(tensors: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    _grow(tensors)
    meta.update(rows=[meta["rows"][0] + 1, meta["rows"][1]])


def _grow(tensors: dict[str, np.ndarray]) -> None:
    for name, value in tensors.items():
        if name.endswith("trainable_tokens_delta") and value.ndim:
            tensors[name] = np.concatenate([value, value[:1]])


def forge(checkpoint: Path, target: Path, change: Callable[[dict, dict], Any]) -> Path:
    """A copy of a checkpoint with tensors and header changed in both of its files."""
    for name in (WEIGHTS, STATE):
        tensors, meta = load_tensors(checkpoint / name), read_meta(checkpoint / name)
        change(tensors, meta)
        save_tensors(target / name, tensors, meta)
    return target


def _said(prepared: Prepared, checkpoint: Path) -> str | None:
    optimizer = optimizer_of(prepared.model, prepared.settings)
    try:
        load_checkpoint(checkpoint, prepared.model, optimizer)
    except UserError as error:
        return error.what
    return None


def main(job_path: str) -> None:
    """The new process: open everything from files and go on."""
    told = read_json(Path(job_path))
    job = StageJob.from_json(told["job"])
    torch.set_num_threads(job.threads)
    torch.use_deterministic_algorithms(True)
    ctx = job.context(job.work)
    if "extension" in ctx.inputs:
        adopt(ctx.inputs["extension"])
    run_until(ctx, Path(told["folder"]), told["until"], told["before"])


if __name__ == "__main__":
    main(sys.argv[1])
