"""Benchmark of the operations against their peers: `doit bench ops [--device cuda] [--only loss|draw]`.

On a CPU every measurement is a process of its own, so that its peak memory is its own; peers of one case follow one
another, in two rounds, so that a machine that slows down slows them all. On CUDA, which counts what is allocated, one
process does all, once. There a draw is timed twice: as it is called, and in a captured graph, without its launches.
Prints a table a case, and writes results/ops-<what>-<chip>-<date>.json after each; cases that today's file has and this
run does not stay. The floor is the case's multiplications at the rate of a large square product, or its
bytes at the rate of reading memory, whichever takes longer; both rates are measured first.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mmpt.bench import machine, ops_peers, record
from mmpt.store.canonical import read_json

ROUNDS = 2
VOCABULARY, NEW = 164_021, 12_352


@dataclass(frozen=True)
class Case:
    """One shape. Loss: n rows of which `supervised` count, and what trains. Draw: batch n, `width` allowed ids.

    head: "random", or "peaky": logits as of a trained model, most of whose probabilities are almost 0. A loss that
    skips tiles of such gradients (cut-cross-entropy) has nothing to skip with a random head.
    """

    kind: str
    n: int
    h: int
    dtype: str
    supervised: int = 0
    trains: str = "new"
    width: int = 0
    head: str = "random"

    @property
    def title(self) -> str:
        if self.kind == "loss":
            peaky = " head=peaky" if self.head == "peaky" else ""
            return f"loss {self.dtype} N={self.n} supervised={self.supervised} H={self.h} trains={self.trains}{peaky}"
        return f"draw {self.dtype} B={self.n} R={self.width} H={self.h}"

    def floor(self, rates: dict[str, float]) -> float:
        """Seconds that no implementation of this case goes under."""
        size = 2 if self.dtype == "bfloat16" else 4
        if self.kind == "draw":
            return self.width * self.h * size / rates["bytes"]
        trained = {"new": NEW, "all": VOCABULARY, "hidden": 0}[self.trains]
        flops = 2 * self.supervised * self.h * (2 * VOCABULARY + trained)
        return max(flops / rates["flops"], VOCABULARY * self.h * size / rates["bytes"])


def cases(device: str) -> list[Case]:
    if device == "cuda":
        losses = [
            Case("loss", n, h, "bfloat16", int(n * share), trains)
            for h in (1024, 2048, 4096)
            for n in (4096, 16384)
            for share in (1, 0.5, 0.25, 0.1, 0.01)
            for trains in ("new", "all")
        ]
        losses += [Case("loss", 16384, 4096, "bfloat16", n, head="peaky") for n in (16384, 4096)]
        draws = [Case("draw", b, 1024, "bfloat16", width=w) for b in (1, 4, 16, 64, 256) for w in (1024, 8192)]
        return losses + draws + [Case("draw", b, 4096, "bfloat16", width=1024) for b in (1, 64)]
    losses = [
        Case("loss", 256, 1024, dtype, 60, trains) for dtype in ("float32", "bfloat16") for trains in ("new", "hidden")
    ]
    dtypes = ("float32", "bfloat16")
    draws = [Case("draw", b, 1024, dtype, width=w) for dtype in dtypes for b, w in ((1, 1024), (64, 1024), (1, 8192))]
    captions = [Case("draw", b, 1024, dtype, width=ops_peers.TEXT) for dtype in dtypes for b in (1, 16, 64)]
    return losses + draws + captions


def peers(case: Case) -> list[str]:
    """Names to run; "NAME, filtered" is a peer given the supervised rows alone."""
    if case.kind == "draw":
        by_them = [ops_peers.BY_TENSOR_CORES] if torch.cuda.is_available() and case.dtype != "float32" else []
        if case.width == ops_peers.TEXT:
            return [*ops_peers.DRAWS_OF_TEXT, *by_them]
        return [
            name for name in ops_peers.DRAWS if name not in ("mmpt, no screen", ops_peers.BY_TENSOR_CORES)
        ] + by_them
    some_ignored = case.supervised < case.n
    return [*ops_peers.LOSSES, *(f"{name}, filtered" for name in ops_peers.MULTIPLY_ALL_ROWS if some_ignored)]


def chosen_peers(case: Case, only: Sequence[str] | None) -> list[str]:
    """mmpt and those of the case's peers that were asked for, filtered by hand too; all without a wish."""
    return [name for name in peers(case) if only is None or name == "mmpt" or name.partition(", ")[0] in only]


def measure(case: Case, peer: str, device: str, threads: int, limit: float) -> dict:
    """In a child process: seconds of each run, extra memory at the peak, and a value to compare."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    dtype = getattr(torch, case.dtype)
    if case.kind == "draw":
        step = ops_peers.DRAWS[peer](ops_peers.draw_problem(case.n, case.h, case.width, dtype, device))
        run, repeats = step, 400
    else:
        problem = ops_peers.loss_problem(
            case.n, case.supervised, case.h, dtype, device, case.trains, case.head == "peaky"
        )
        name, _, filtered = peer.partition(", ")
        problem = ops_peers.prefiltered(problem) if filtered else problem
        step, repeats = ops_peers.LOSSES[name](problem), 30
        leaves = [problem.hidden, problem.base, problem.new, problem.whole]

        def run() -> torch.Tensor:
            for leaf in leaves:
                leaf.grad = None
            loss = step()
            loss.backward()
            return loss

    value = float(run().detach().float().flatten()[0])  # compiles and allocates what stays
    for leaf in leaves if case.kind == "loss" else ():
        leaf.grad = None
    memory = machine.PeakMemory(device)
    run()
    machine.wait(device)
    extra = memory.extra()
    found = {
        "seconds": machine.seconds(run, device, repeats=repeats, limit=limit),
        "extra_bytes": extra,
        "value": value,
    }
    return {**found, **graph_times(step)} if device == "cuda" and case.kind == "draw" else found


def graph_times(step: ops_peers.Step) -> dict:
    """Seconds of a draw in a captured graph, or why there are none: a peer that waits for the device has none."""
    try:
        return {"graph_seconds": machine.quantile(machine.seconds_in_a_graph(step, repeats=50), 0.5)}
    except RuntimeError as error:
        return {"no_graph": str(error).splitlines()[0][:200]}


def in_process(case: Case, peer: str, device: str, threads: int, limit: float) -> dict:
    """`measure`, and nothing of it stays."""
    try:
        return measure(case, peer, device, threads, limit)
    except Exception as error:
        return {"absent": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def in_child(case: Case, peer: str, device: str, threads: int, limit: float) -> dict:
    words = [json.dumps(asdict(case)), peer, device, str(threads), str(limit)]
    done = subprocess.run(
        [sys.executable, "-m", "mmpt.bench.ops", "--child", *words], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1])
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return {"absent": lines[-1][:200]}


def bench_case(
    case: Case, device: str, threads: int, limit: float, rates: dict[str, float], wanted: Sequence[str] | None = None
) -> dict:
    """All peers of a case: {title, floor, rows: {peer: numbers or why it is absent}}."""
    found: dict[str, dict] = {}
    run, rounds = (in_process, 1) if device == "cuda" else (in_child, ROUNDS)
    for _ in range(rounds):
        for peer in wanted or peers(case):
            if "absent" in found.get(peer, {}):
                continue
            one = run(case, peer, device, threads, limit)
            if peer in found and "seconds" in one:
                one["seconds"] = found[peer]["seconds"] + one["seconds"]
            found[peer] = one
    floor = case.floor(rates)
    rows = {}
    for peer, one in found.items():
        if "absent" in one:
            rows[peer] = one
            continue
        median = machine.quantile(one["seconds"], 0.5)
        rows[peer] = {
            "median": median,
            "p10": machine.quantile(one["seconds"], 0.1),
            "p90": machine.quantile(one["seconds"], 0.9),
            "runs": len(one["seconds"]),
            "extra_bytes": one["extra_bytes"],
            "of_floor": floor / median,
            "value": one["value"],
            **{key: one[key] for key in ("graph_seconds", "no_graph") if key in one},
        }
    return {"title": case.title, **asdict(case), "floor": floor, "peers": rows}


def table(result: dict) -> str:
    """One case as text, fastest first, with each peer's time over ours."""
    rows = result["peers"]
    ours = rows["mmpt"].get("median", float("nan"))
    lines = [
        result["title"],
        f"  {'':38}{'median':>12}{'p10':>12}{'p90':>12}{'peak MiB':>10}{'of floor':>10}{'x ours':>8}",
    ]
    for name, one in sorted(rows.items(), key=lambda item: item[1].get("median", 1e9)):
        if "absent" in one:
            lines.append(f"  {name:38}absent: {one['absent']}")
            continue
        times = "".join(f"{_time(one[key]):>12}" for key in ("median", "p10", "p90"))
        lines.append(
            f"  {name:38}{times}{one['extra_bytes'] / 2**20:>10.1f}{one['of_floor']:>10.0%}{one['median'] / ours:>8.2f}"
            f"{_in_a_graph(one)}"
        )
    return "\n".join(lines)


def _in_a_graph(one: dict) -> str:
    if "graph_seconds" in one:
        return f"   in a graph {_time(one['graph_seconds'])}"
    return f"   no graph: {one['no_graph']}" if "no_graph" in one else ""


def _time(value: float) -> str:
    return f"{value * 1e3:.1f} ms" if value > 1e-3 else f"{value * 1e6:.1f} us"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cases, prints their tables, writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", choices=["loss", "draw"])
    parser.add_argument(
        "--match", nargs="+", default=[], metavar="WORD", help="run the cases with all of these in their title"
    )
    parser.add_argument("--peers", nargs="+", metavar="NAME", help="compare with these alone; names as in the tables")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--limit", type=float, default=10.0, help="seconds a measurement may take, about")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        case, peer, device, threads, limit = arguments.child
        print(json.dumps(measure(Case(**json.loads(case)), peer, device, int(threads), float(limit))))
        return
    torch.set_num_threads(arguments.threads)
    device = arguments.device
    chosen = [
        c for c in cases(device) if arguments.only in (None, c.kind) and set(arguments.match) <= set(c.title.split())
    ]
    rates = {name: machine.rates(device, getattr(torch, name)) for name in sorted({c.dtype for c in chosen})}
    results, what = [], f"ops-{arguments.only or 'all'}"
    for case in chosen:
        wanted = chosen_peers(case, arguments.peers)
        results.append(bench_case(case, device, arguments.threads, arguments.limit, rates[case.dtype], wanted))
        print(table(results[-1]), flush=True)
        found = {
            "device": device,
            "threads": arguments.threads,
            "torch": torch.__version__,
            "rates": rates,
            "cases": results,
        }
        found["cases"] = _with_earlier(record.place(what, device), found, [c.title for c in cases(device)])
        path = record.write(what, device, found)
    print(path if results else "no case has all of these words in its title")


def _with_earlier(path: Path, found: dict, order: list[str]) -> list[dict]:
    """This run's cases, and those of today's file that it did not run, if that was made with the same settings."""
    old = read_json(path) if path.is_file() else {}
    alike = all(old.get(key) == found[key] for key in ("device", "threads", "torch"))
    of = {case["title"]: case for case in (old["cases"] if alike else []) + found["cases"]}
    return [of[title] for title in order if title in of]


if __name__ == "__main__":
    main()
