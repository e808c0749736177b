"""Training benchmark: doit bench train [--device cuda] [--shape tiny] [--dtype float32] [--only NAME ..] [--compile].

Every contender is a process of its own, so that its memory is its own, and takes whole optimizer steps, data
preparation included, over the same items: 16 a step, a quarter of each task (mmpt/bench/train_work.py). What is
counted is their tokens; padding is not. On a CPU all processes stay and take turns, a block of steps each, so that
a machine that slows down slows them all; on a GPU, whose memory they do not share, each comes twice.

First they must agree: from the same start values, the first step's loss is the same mean over supervised tokens, and
the gradients of LoRA and of the new rows point the same way. Stage 4's objective weighs tasks, so ours takes that one
step with weights that make it the token mean. The reference averages sequences and is compared by its loss alone.

Memory is resident memory on a CPU and allocated memory on a GPU, at its peak beyond the loaded model; the memory
of loading is given next to it. Prints a table and writes results/train-<shape>-<dtype>-<chip>-<date>.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mmpt import ops
from mmpt.bench import machine, record
from mmpt.bench.train_work import WORKLOADS, Workload, make_base, make_data, open_loader, step_flops
from mmpt.shards.loader import Loader
from mmpt.store.tensors import load_tensors, save_tensors
from mmpt.tokens.formats import IGNORE
from mmpt.train import speed

# Relative difference of the loss, and 1 - cosine of the gradients, that rounding explains: bf16 keeps 8 bits.
TOLERANCE = {"float32": (1e-4, 1e-4), "bfloat16": (1e-2, 2e-2)}


@dataclass(frozen=True)
class Job:
    """One contender's run: `warm` steps after the first, then `rounds` blocks of `block` steps."""

    contender: str
    shape: str
    dtype: str
    device: str
    threads: int
    folder: str
    warm: int
    block: int
    rounds: int

    @property
    def marks(self) -> tuple[int, ...]:
        """Steps after which the clock starts, or is read and starts again."""
        return tuple(1 + self.warm + i * self.block for i in range(self.rounds + 1))


class Ended(Exception):
    """The last block is done."""


class Turn:
    """The child's side: says what happened, a line of JSON each, and waits for its turn."""

    def __init__(self, job: Job, answer: Callable[[dict[str, Any]], None], hear: Callable[[], str]):
        self.job, self.answer, self.hear = job, answer, hear
        self.started: tuple[float, float] | None = None
        self.blocks = 0
        self.imported = machine.PeakMemory(job.device).before

    def loaded(self) -> None:
        self.memory = machine.PeakMemory(self.job.device)

    def first(self, loss: float, gradients: dict[str, torch.Tensor]) -> None:
        path = Path(self.job.folder) / f"{self.job.contender}.safetensors"
        save_tensors(path, gradients, {}, durable=False)
        self.answer({"loss": loss, "gradients": str(path), "loaded_bytes": self.memory.before - self.imported})

    def after(self, step: int) -> None:
        """At a mark: tell the block's seconds (none: warm) and wait. Raises Ended when told so."""
        if step != (due := self.job.marks[self.blocks]):
            raise RuntimeError(f"{self.job.contender} stopped after step {step}, not {due}")
        self.blocks += 1
        machine.wait(self.job.device)
        spent: dict[str, float] = {}
        if self.started is not None:
            wall, work = self.started
            spent = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - work}
        self.answer({**spent, "extra_bytes": self.memory.extra()})
        if self.hear() != "go":
            raise Ended
        self.started = time.perf_counter(), time.process_time()


def in_child(job: Job) -> None:
    """Train as `job` says, on this process's standard input and output."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    torch.set_num_threads(job.threads)
    from mmpt.bench.train_peers import Task, contender

    def answer(what: dict[str, Any]) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    ops.use("compiled")
    turn, folder = Turn(job, answer, lambda: sys.stdin.readline().strip()), Path(job.folder)
    work = Path(tempfile.mkdtemp(dir=folder))
    task = Task(
        folder / "base",
        folder,
        work,
        WORKLOADS[job.shape],
        getattr(torch, job.dtype),
        job.device,
        job.marks[-1] + 1,
        turn.loaded,
        turn.first,
        turn.after,
        job.marks,
    )
    try:
        contender(job.contender)(task)
    except Ended:
        return


class Child:
    """The parent's side of one contender. `absent` is why it does not run, once it does not."""

    def __init__(self, job: Job):
        self.job, self.absent = job, ""
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- it lives as long as the child
        environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads), "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mmpt.bench.train", "--child", json.dumps(asdict(job))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )
        assert self.process.stdin is not None and self.process.stdout is not None  # both are pipes
        self.words, self.answers = self.process.stdin, self.process.stdout

    def next(self) -> dict[str, Any]:
        """Its next answer; {} once it is absent."""
        line = self.answers.readline() if not self.absent else ""
        if line:
            return json.loads(line)
        if not self.absent:
            self.process.wait()
            self.errors.seek(0)
            lines = self.errors.read().strip().splitlines() or [f"exit code {self.process.returncode}"]
            self.absent = lines[-1][:200]
        return {}

    def tell(self, word: str) -> None:
        if not self.absent:
            self.words.write(word + "\n")
            self.words.flush()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.words.close()
        self.answers.close()
        self.errors.close()


def take_turns(jobs: Sequence[Job], found: dict[str, dict[str, Any]]) -> None:
    """Run these contenders side by side, one at a time, and add what they say to `found`."""
    children = []
    try:
        for job in jobs:
            children.append(child := Child(job))
            found[job.contender].update(child.next())
            child.next()  # warm
        for _ in range(jobs[0].rounds):
            for child in children:
                child.tell("go")
                if answer := child.next():
                    one = found[child.job.contender]
                    one["seconds"].append(answer["seconds"])
                    one["processor_seconds"].append(answer["processor_seconds"])
                    one["extra_bytes"] = answer["extra_bytes"]
        for child in children:
            child.tell("end")
            if child.absent:
                found[child.job.contender]["absent"] = child.absent
    finally:
        for child in children:
            child.close()


def bench_case(names: Sequence[str], job: Job) -> dict[str, Any]:
    """All contenders over one shape: {title, .., contenders: {name: numbers, or why it is absent}}."""
    shape, device = WORKLOADS[job.shape], job.device
    found: dict[str, dict[str, Any]] = {name: {"seconds": [], "processor_seconds": []} for name in names}
    with tempfile.TemporaryDirectory() as folder:
        make_data(Path(folder), shape)
        make_base(Path(folder) / "base", shape, getattr(torch, job.dtype), device)
        jobs = [Job(**{**asdict(job), "contender": name, "folder": folder}) for name in names]
        passes = [jobs] if device == "cpu" else [[one] for _ in range(2) for one in jobs]
        for some in passes:
            take_turns(some, found)
        if "absent" in found["mmpt"]:
            raise RuntimeError(f"mmpt did not train: {found['mmpt']['absent']}")
        for one in found.values():
            if "absent" not in one:
                one |= agreement(found["mmpt"], one, *TOLERANCE[job.dtype])
        about = _about(open_loader(Path(folder), shape), shape, job)
    rounds = len(found["mmpt"]["seconds"])
    rows = {name: one if "absent" in one else _numbers(one, about, job, rounds) for name, one in found.items()}
    return {"title": f"{job.shape}, {job.dtype}", **asdict(job), "contenders": rows, **about}


def agreement(ours: dict[str, Any], other: dict[str, Any], loss: float, turned: float) -> dict[str, Any]:
    """How far a contender's first step is from ours, and `differs`, where rounding does not explain it.

    Gradients are compared as directions: clipping scales them. Those that the other does not give are left out.
    """
    apart = abs(other["loss"] / ours["loss"] - 1)
    found: dict[str, Any] = {"loss_apart": apart}
    mine, its = (load_tensors(one["gradients"], "pt") for one in (ours, other))
    if its and mine.keys() != its.keys():
        return {**found, "differs": f"trains {len(its)} tensors, ours {len(mine)}"}
    for part, chosen in (("lora", [k for k in its if ".lora_" in k]), ("rows", [k for k in its if ".lora_" not in k])):
        if chosen:
            a, b = (torch.cat([one[key].flatten().double() for key in chosen]) for one in (mine, its))
            found[f"{part}_cosine"] = float(torch.dot(a, b) / (a.norm() * b.norm()))
    wrong = [f"loss by {apart:.2g}"] if not apart <= loss else []
    for part in ("lora", "rows"):
        if not found.get(f"{part}_cosine", 1.0) >= 1 - turned:
            wrong.append(f"gradient of {part}, cosine {found[f'{part}_cosine']:.4f}")
    return {**found, **({"differs": "; ".join(wrong)} if wrong else {})}


def _about(loader: Loader, shape: Workload, job: Job) -> dict[str, Any]:
    """The work itself: tokens and FLOPs of each block, padding, and what a batch costs us to prepare."""
    start = time.perf_counter()
    batches = [loader.batch(step) for step in range(job.marks[-1])]
    prepare = (time.perf_counter() - start) / len(batches)
    blocks = [batches[a:b] for a, b in itertools.pairwise(job.marks)]
    count = step_flops(shape)
    tokens = [sum(batch.n_tokens for batch in block) for block in blocks]
    return {
        "tokens": tokens,
        "flops": [sum(count.of_batch(batch) for batch in block) for block in blocks],
        "supervised": sum(int((b.labels != IGNORE).sum()) for b in batches) / sum(b.n_tokens for b in batches),
        "row_len": shape.row_len,
        "filled": sum(b.n_tokens for b in batches) / sum(b.input_ids.size for b in batches),
        "items": len(batches[0].draws),
        "prepare_seconds": prepare,
    }


def _numbers(one: dict[str, Any], about: dict[str, Any], job: Job, rounds: int) -> dict[str, Any]:
    """What is kept of a contender: its rate is the median over blocks."""
    if len(one["seconds"]) != rounds:
        raise RuntimeError(f"a contender took {len(one['seconds'])} of {rounds} blocks")
    work = list(zip(one["seconds"], about["tokens"] * (rounds // job.rounds), strict=True))
    rates = [tokens / seconds for seconds, tokens in work]
    flops = [n / seconds for seconds, n in zip(one["seconds"], about["flops"] * (rounds // job.rounds), strict=True)]
    kept = {key: value for key, value in one.items() if key != "gradients"}
    return {
        **kept,
        "tokens_per_second": machine.quantile(rates, 0.5),
        "p10": machine.quantile(rates, 0.1),
        "p90": machine.quantile(rates, 0.9),
        "flops_per_second": machine.quantile(flops, 0.5),
    }


def table(result: dict[str, Any]) -> str:
    """One case as text, fastest first, with ours over each: speed and both memories."""
    rows = result["contenders"]
    ours = rows["mmpt"]
    step = sum(result["tokens"]) / len(result["tokens"]) / result["block"]
    lines = [
        f"{result['title']}: {step:.0f} tokens per step in {result['items']} items, "
        f"{result['supervised']:.0%} supervised",
        f"  {'':42}{'tokens/s':>10}{'p10':>9}{'p90':>9}{'ours is':>9}"
        f"{'peak MiB':>10}{'x ours':>8}{'loaded':>8}{'MFU':>7}",
    ]
    for name, one in sorted(rows.items(), key=lambda item: -item[1].get("tokens_per_second", 0)):
        if "absent" in one:
            lines.append(f"  {name:42}absent: {one['absent']}")
            continue
        rates = f"{one['tokens_per_second']:>10.0f}{one['p10']:>9.0f}{one['p90']:>9.0f}"
        faster = f"{ours['tokens_per_second'] / one['tokens_per_second']:>8.2f}x"
        memory = f"{one['extra_bytes'] / 2**20:>10.0f}{one['extra_bytes'] / ours['extra_bytes']:>8.2f}"
        share = f"{one['loaded_bytes'] / 2**20:>8.0f}{one['flops_per_second'] / result['peak_flops']:>7.1%}"
        lines.append(
            f"  {name:42}{rates}{faster}{memory}{share}{'  DIFFERS: ' + one['differs'] if 'differs' in one else ''}"
        )
    return "\n".join(lines)


def peak_flops(device: str, dtype: str) -> tuple[float, str]:
    """FLOPs per second to measure use against, and where they come from."""
    rate = speed.peak_flops(machine.chip(device), getattr(torch, dtype)) if device == "cuda" else None
    if rate is not None:
        return rate, "data sheet"
    return machine.rates(device, getattr(torch, dtype))["flops"], "measured: a square product"


def chosen(device: str, only: Sequence[str] | None, compiled: bool = False) -> list[str]:
    """Ours, `compiled` too, and the peers asked for; without a wish, those that suit the device."""
    from mmpt.bench.train_peers import COMPILED, CONTENDERS, CONTENDERS_CUDA

    names = [*CONTENDERS, *(CONTENDERS_CUDA if device == "cuda" or only else ())]
    peers = [name for name in names if name != "mmpt" and (only is None or name in only)]
    return ["mmpt", *([COMPILED] if compiled else []), *peers]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the contenders, print the table, write the results. Exit code 1 if a contender computes something else."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shape", default="tiny", choices=list(WORKLOADS))
    parser.add_argument("--dtype", choices=list(TOLERANCE), help="default: float32 on a CPU, bfloat16 on CUDA")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="peers to run beside mmpt; see train_peers.py")
    parser.add_argument("--compile", action="store_true", help="ours with train.compile, too")
    parser.add_argument("--rounds", type=int, help="blocks of steps a contender; default 5, on CUDA twice")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        in_child(Job(**json.loads(arguments.child)))
        return
    torch.set_num_threads(arguments.threads)
    ops.use("compiled")  # builds the extension before any clock runs
    device, cuda = arguments.device, arguments.device == "cuda"
    dtype = arguments.dtype or ("bfloat16" if cuda else "float32")
    warm, block, rounds = (10, 5, 5) if cuda else (1, 1, 5)
    job = Job("", arguments.shape, dtype, device, arguments.threads, "", warm, block, arguments.rounds or rounds)
    rate, origin = peak_flops(device, dtype)
    result = bench_case(chosen(device, arguments.only, arguments.compile), job) | {
        "peak_flops": rate,
        "peak_from": origin,
    }
    print(table(result), flush=True)
    found = {"device": device, "torch": torch.__version__, **_versions(), **result}
    print(record.write(f"train-{arguments.shape}-{dtype}", device, found))
    if any("differs" in one for one in result["contenders"].values()):
        raise SystemExit(1)


def _versions() -> dict[str, str]:
    import peft
    import transformers

    return {"transformers": transformers.__version__, "peft": peft.__version__}


if __name__ == "__main__":
    main()
