"""Benchmark of decoding against transformers.generate: `doit bench generate [--device cuda] [--task t2a ..]`.

A Qwen3 of random weights with the whole vocabulary of 164,021 ids decodes sounds (4 codebooks of 1,024, one length),
pictures (32 ids of 8,192) and captions (151,669 ids and a learned end; 64 of them, as in a golden set). First all peers
decode everything once. In fp32 their ids must be equal; in bf16, where transformers rounds its logits to 8 bits, equal
outputs are counted. Then they take turns in rounds; batch 1 decodes `--singles` sequences per round. Times are seconds
per sequence. Cases that today's file already has are not run again: an interrupted run goes on, and `--dtype bfloat16`
adds its cases to those of fp32. Prints a table for each case and writes results/generate-<device>-<chip>-<date>.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mmpt.bench import machine, record
from mmpt.bench.generate_peers import Ids, Models, Peer, Work, opened, peers, work
from mmpt.bench.train_work import WORKLOADS
from mmpt.store.canonical import read_json

TASKS = ("t2a", "t2i", "a2t")


@dataclass(frozen=True)
class GenerateSettings:
    """The model and how much is decoded: `items` sounds and pictures, `text_items` captions, `batch` at a time.

    model: a shape of the training benchmark, instead of `hidden` and `layers`. only: peers beside mmpt; empty: all.
    """

    hidden: int
    layers: int
    items: int
    text_items: int
    batch: int
    frames: int
    end_scale: float
    rounds: int
    singles: int
    threads: int
    model: str | None = None
    only: tuple[str, ...] = ()

    @property
    def shape(self) -> dict[str, Any]:
        if self.model:
            return {**WORKLOADS[self.model].config, "tie_word_embeddings": False}
        return {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // 64,
            "num_key_value_heads": max(1, self.hidden // 128),
            "head_dim": 64,
            "intermediate_size": 3 * self.hidden,
            "tie_word_embeddings": False,
        }


def agree(models: Models, todo: Work, dtype: str, chosen: dict[str, Peer], single: int) -> dict[str, Any]:
    """How many outputs of each peer are ours. Raises RuntimeError where fp32 ids differ.

    Peers of batch 1 decode the first `single` items.
    """
    expected: Ids = []
    found: dict[str, Any] = {}
    for name, peer in chosen.items():
        part = todo.part(range(single), 1) if name.endswith("batch 1") else todo
        ids = peer(models, part)
        expected = expected or ids
        same = sum(a == b for a, b in zip(ids, expected, strict=False))
        found[name] = {"same": same, "of": len(ids)}
        if dtype == "float32" and same < len(ids):
            raise RuntimeError(
                f"{todo.task}: {name} gives other ids than mmpt in {len(ids) - same} of {len(ids)} outputs"
            )
    lengths = [len(ids) for ids in expected]
    return {"same_ids": found, "tokens": sum(lengths), "shortest": min(lengths), "longest": max(lengths)}


def measure(models: Models, todo: Work, setting: GenerateSettings, dtype: str, device: str) -> dict[str, Any]:
    """One case: seconds per sequence of every peer, a round."""
    chosen = {
        name: one for name, one in peers(device, dtype).items() if not setting.only or name in ("mmpt", *setting.only)
    }
    found = agree(models, todo, dtype, chosen, setting.singles)
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for number in range(setting.rounds):
        first = number * setting.singles
        single = [(first + i) % len(todo.prompts) for i in range(setting.singles)]
        for name, peer in chosen.items():
            part = todo.part(single, 1) if name.endswith("batch 1") else todo
            machine.wait(device)
            start = time.perf_counter()
            peer(models, part)
            machine.wait(device)
            times[name].append((time.perf_counter() - start) / len(part.prompts))
    rows = {
        name: {
            "median": machine.quantile(seconds, 0.5),
            "p10": machine.quantile(seconds, 0.1),
            "p90": machine.quantile(seconds, 0.9),
            "runs": len(seconds),
        }
        for name, seconds in times.items()
    }
    return {"task": todo.task, "dtype": dtype, "items": len(todo.prompts), "batch": todo.batch, **found, "peers": rows}


def title(case: dict[str, Any]) -> str:
    lengths = f"{case['shortest']}..{case['longest']}" if case["shortest"] < case["longest"] else case["longest"]
    return f"{case['task']} {case['dtype']}: {case['items']} outputs of {lengths} ids, {case['batch']} at a time"


def table(case: dict[str, Any]) -> str:
    """One case as text, fastest first, with each peer's time over ours."""
    mine = case["peers"]["mmpt"]["median"]
    lines = [title(case), f"  {'':44}{'a sequence':>12}{'p10':>12}{'p90':>12}{'x ours':>9}{'same ids':>10}"]
    for name, one in sorted(case["peers"].items(), key=lambda item: item[1]["median"]):
        cells = "".join(f"{one[key] * 1e3:>9.1f} ms" for key in ("median", "p10", "p90"))
        same = case["same_ids"][name]
        lines.append(f"  {name:44}{cells}{one['median'] / mine:>9.2f}{same['same']:>6}/{same['of']}")
    return "\n".join(lines)


def _so_far(path: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Cases of a file that was written with the same settings."""
    old = read_json(path) if path.is_file() else {}
    return old["cases"] if all(old.get(key) == value for key, value in about.items()) else []


def _setting(words: Sequence[str] | None) -> tuple[argparse.Namespace, GenerateSettings]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--task", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32"])
    parser.add_argument(
        "--model", choices=list(WORKLOADS), help="a shape of `bench train`, instead of --hidden and --layers"
    )
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="peers to run beside mmpt")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--items", type=int, default=16, help="sounds, and pictures")
    parser.add_argument("--text-items", type=int, default=64, help="captions: as many as a golden set has")
    parser.add_argument("--batch", type=int, default=64, help="at a time, all peers alike")
    parser.add_argument("--frames", type=int, default=16, help="of a sound: 4 ids each")
    parser.add_argument("--end-scale", type=float, default=3.0, help="factor on the row that ends captions")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--singles", type=int, default=8, help="sequences per round at batch 1")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--again", action="store_true", help="run cases that today's file has, too")
    given = parser.parse_args(words)
    names = GenerateSettings.__dataclass_fields__
    setting = GenerateSettings(**{name: value for name, value in vars(given).items() if name in names})
    return given, replace(setting, only=tuple(setting.only))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cases, prints their tables, writes the results after each."""
    given, setting = _setting(argv)
    torch.set_num_threads(setting.threads)
    device, what = given.device, f"generate-{given.device}"
    about = {"device": device, "torch": torch.__version__, "setting": {**asdict(setting), "only": list(setting.only)}}
    path = record.place(what, device)
    cases = [] if given.again else _so_far(path, about)
    for dtype in given.dtype:
        todo = [task for task in given.task if (task, dtype) not in {(c["task"], c["dtype"]) for c in cases}]
        if not todo:
            continue
        with (
            tempfile.TemporaryDirectory() as folder,
            opened(setting.shape, getattr(torch, dtype), device, setting.end_scale, Path(folder)) as models,
        ):
            for task in todo:
                n = setting.text_items if task == "a2t" else setting.items
                items = work(models.space, task, n, setting.frames, min(n, setting.batch))
                cases.append(measure(models, items, setting, dtype, device))
                print(table(cases[-1]), flush=True)
                record.write(what, device, {"threads": setting.threads, **about, "cases": cases})
    print(path)


if __name__ == "__main__":
    main()
