"""Which softmax learns faster a token, `loss.support: full` or `range`: `doit bench support [--profile smoke]`.

Both train from the warm-up of a profile that was built, on the same batches, and are held to the same yardstick: nats a
payload token of held-out examples, softmax over the token's own segment, which is what constrained decoding draws from.
Writes results/support-<chip>-<date>.json with every point of every curve.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmpt import ops
from mmpt.bench import record
from mmpt.build.stage_table import STAGES, by_name
from mmpt.model.multimodal import MultimodalLM
from mmpt.profile import load_profile
from mmpt.shards.example_set import ExampleSet
from mmpt.store.errors import UserError
from mmpt.store.stage import SliceView, StageContext
from mmpt.store.tasks import EMIT_TASKS
from mmpt.train.heldout import item_losses, sample
from mmpt.train.loop import Hooks, train
from mmpt.train.preparation import prepare_train

SUPPORTS = ("full", "range")
ITEMS = 128  # held-out examples per task and a point


@dataclass(frozen=True)
class Plan:
    """What every run shares."""

    profile: str
    steps: int
    every: int
    threads: int


def context(plan: Plan, support: str, seed: int, work: Path) -> StageContext:
    """Stage `train` of the profile, with another support, seed and number of steps. UserError where it is not built."""
    profile, stage = load_profile(plan.profile), by_name(STAGES)["train"]
    data = copy.deepcopy(profile.data)
    data["train"]["steps"] = plan.steps
    data["train"]["loss"]["support"] = support
    root = Path("artifacts") / data["name"]
    inputs = {name: root / name / "data" for name in stage.inputs}
    missing = [name for name, folder in inputs.items() if not folder.is_dir()]
    if missing:
        raise UserError(f"stage {missing[0]} was not built yet", where=str(root), fix=f"doit profile={plan.profile}")
    return StageContext(
        "train",
        SliceView(data, stage.slice, "train"),
        inputs,
        work / "out",
        work,
        seed=seed,
        threads=plan.threads,
        device=data["runtime"]["device"],
        dtype=data["runtime"]["dtype"],
    )


def held_out(ctx: StageContext, model: MultimodalLM) -> dict[str, ExampleSet]:
    return {
        task: ExampleSet.open(ctx.inputs["examples"], ctx.inputs["shards"], model.space, task, "test")
        for task in EMIT_TASKS
    }


def run(plan: Plan, support: str, seed: int) -> dict[str, Any]:
    """One training: {"support", "seed", "seconds", "curve": {step: {task: {"inside", "full"}}}}, nats per token."""
    with tempfile.TemporaryDirectory() as folder:
        ctx = context(plan, support, seed, Path(folder))
        torch.manual_seed(seed)
        ready = prepare_train(ctx)
        test = held_out(ctx, ready.model)

        def measure(step: int) -> dict[str, Any]:
            out = {}
            for task, examples in test.items():
                losses = item_losses(ready.model, examples, sample(examples, ITEMS), ready.loader.row_len)
                out[task] = {"inside": float(losses.inside.mean()), "full": float(losses.full.mean())}
            return out

        points = tuple(range(plan.every, plan.steps + 1, plan.every))
        settings = replace(ready.settings, save_every=plan.steps)
        began = time.monotonic()
        outcome = train(
            ready.model, ready.loader, settings, Path(folder) / "run", Hooks(measure=measure, measure_at=points)
        )
        curve = {str(step): outcome.measured[str(step)] for step in points}
        return {"support": support, "seed": seed, "seconds": time.monotonic() - began, "curve": curve}


def tokens_to_reach(curve: dict[str, dict], task: str, loss: float) -> float | None:
    """Steps, interpolated between points, until a curve is at or under `loss`; None where it never is."""
    steps = sorted(map(int, curve))
    values = [curve[str(step)][task]["inside"] for step in steps]
    for i, value in enumerate(values):
        if value <= loss:
            if i == 0:
                return float(steps[0])
            share = (values[i - 1] - loss) / (values[i - 1] - value)
            return steps[i - 1] + share * (steps[i] - steps[i - 1])
    return None


def summary(runs: list[dict[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """A task: final losses of both, and the share of full's tokens that range needs for full's final loss, a seed."""
    found: dict[str, Any] = {}
    curves = {(one["support"], one["seed"]): one["curve"] for one in runs}
    for task in EMIT_TASKS:
        last = max(map(int, curves["full", seeds[0]]))
        final = {s: [curves[s, seed][str(last)][task]["inside"] for seed in seeds] for s in SUPPORTS}
        shares = []
        for seed, loss in zip(seeds, final["full"], strict=True):
            reached = tokens_to_reach(curves["range", seed], task, loss)
            shares.append(None if reached is None else reached / last)
        found[task] = {"final": final, "share_of_tokens": shares}
    return found


def table(result: dict[str, Any]) -> str:
    """Mean over seeds, one line per point."""
    lines = [f"{'step':>6}" + "".join(f"{f'{task} {support}':>14}" for task in EMIT_TASKS for support in SUPPORTS)]
    steps = sorted(map(int, result["runs"][0]["curve"]))
    for step in steps:
        cells = [
            np.mean([one["curve"][str(step)][task]["inside"] for one in result["runs"] if one["support"] == support])
            for task in EMIT_TASKS
            for support in SUPPORTS
        ]
        lines.append(f"{step:>6}" + "".join(f"{cell:>14.4f}" for cell in cells))
    for task, one in result["summary"].items():
        shares = ", ".join("never" if share is None else f"{share:.2f}" for share in one["share_of_tokens"])
        lines.append(f"{task}: tokens that range needs for full's final loss, as a share of full's, a seed: {shares}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains both ways for each seed, prints the curves, writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="smoke", help="packaged name or path; it must have been built")
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--every", type=int, default=50, help="steps between two points of a curve")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    plan = Plan(options.profile, options.steps, options.every, options.threads)
    ops.adopt(context(plan, "full", 0, Path()).inputs["extension"])
    seeds = list(range(1, options.seeds + 1))
    runs = []
    for seed in seeds:
        for support in SUPPORTS:
            runs.append(run(plan, support, seed))
            print(f"seed {seed}, {support}: {runs[-1]['seconds']:.0f} s", flush=True)
    device = load_profile(options.profile).data["runtime"]["device"]
    result = {
        "threads": options.threads,
        "torch": torch.__version__,
        "profile": options.profile,
        "steps": options.steps,
        "seeds": seeds,
        "runs": runs,
        "summary": summary(runs, seeds),
    }
    print(table(result))
    print(record.write("support", device, result))


if __name__ == "__main__":
    main()
