"""What the ranks of a test do: one group of processes runs many small trainings, one after the other.

A process costs seconds to start, a training a fraction of one, so the tests of several ranks share a group.
Every function here runs on each rank and is importable by the processes that are started.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from mmpt.model.multimodal import MultimodalLM
from mmpt.train.distributed import Ranks
from mmpt.train.loop import Hooks, Outcome, train
from mmpt.train.sharding import shard_base
from tests.model.tiny_model import LORA, small_space
from tests.train.small_run import small_loader, small_settings

STEPS = 50
SHORT, MIDDLE = 20, 10  # of these: where a run that only has to agree ends, and where it changes its ranks
PATIENCE = 180  # seconds until a group that hangs is ended; on a busy machine 60 have ended one that worked


def model_of(root: Path, dropout: float = 0.1, base: str = "base", **options: Any) -> MultimodalLM:
    """The same model on every rank and for every number of ranks, over a base that the test has made.

    Only one of several ranks may write a model folder: save_pretrained does nothing on the others.
    """
    lora = {**LORA, "dropout": dropout}
    model = MultimodalLM.from_base(root / base, small_space(), lora, seed=1, **options)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.adapter_parameters().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.device))
    return model


def run(
    root: Path,
    name: str,
    ranks: Ranks = Ranks.alone(),
    *,
    split: bool = False,
    device: str = "cpu",
    until: int | None = None,
    tokens: int = 200,
    steps: int = STEPS,
    dropout: float = 0.1,
    seed: int = 0,
    hooks: Hooks = Hooks(),
    model: MultimodalLM | None = None,
    **settings: Any,
) -> Outcome:
    """A training in root/name: about 5 rows per step, one row a micro-batch, every step logged."""
    model = model or model_of(root, dropout)
    if split:
        shard_base(model, ranks, device)
    torch.manual_seed(11)
    loader = small_loader(model.space, steps, seed=seed, ramp=0.2, tokens=tokens)
    numbers = small_settings(steps, **{"micro_rows": 1, "log_every": 1, "save_every": MIDDLE, **settings})
    return train(model, loader, numbers, root / name, hooks, until=until, ranks=ranks)


def spawn(work: Callable[[Path, Ranks], None], root: Path, world: int = 2) -> None:
    """Run work(root, ranks) on each of `world` processes; raises what a process raised.

    They are forked from a process that has imported what takes 6 seconds. Not from this one: where torch is built with
    CUDA, a process whose parent has run a backward pass runs none.
    """
    set_forkserver_preload(["torch", "transformers", "peft"])
    context = multiprocessing.start_processes(_enter, (world, work, root), world, join=False, start_method="forkserver")
    end = time.monotonic() + PATIENCE
    try:
        while not context.join(timeout=1.0):
            if time.monotonic() > end:
                raise TimeoutError(f"{work.__name__}: the ranks hang")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
            process.join()


def _enter(rank: int, world: int, work: Callable[[Path, Ranks], None], root: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{root}/meeting_{work.__name__}", rank=rank, world_size=world
    )
    work(root, Ranks(rank, world))
    torch.distributed.destroy_process_group()


def note(root: Path, name: str, ranks: Ranks, **said: Any) -> None:
    """Leave something for the test to read: root/name.<rank>.json."""
    (root / f"{name}.{ranks.rank}.json").write_text(json.dumps(said))


def notes(root: Path, name: str, world: int = 2) -> list[dict[str, Any]]:
    """What each rank left."""
    return [json.loads((root / f"{name}.{rank}.json").read_text()) for rank in range(world)]
