"""Parts for workers to do, with mishaps."""

import os
import signal

from mmpt.shards.tokenising import Tokenising
from mmpt.stages.shards import shards_part
from mmpt.store.canonical import write_json


def killed_once(ctx, rank, world):
    """shards_part, but the second worker is killed after its first shard, the first time."""
    before = ctx.work / "killed-once"
    if rank == 1 and not before.exists():
        work = Tokenising(ctx)
        mine = len(work.shards) - 1
        work.write([work.shards[mine]])
        before.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    shards_part(ctx, rank, world)


class KilledOnce(Tokenising):
    """Tokenising, but the worker that comes to the third shard is killed, the first time."""

    def __call__(self, name):
        before = self.ctx.work / "killed-once"
        if name == self.shards[2].name and not before.exists():
            before.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(name)


class KilledAlways(Tokenising):
    """Tokenising, but any worker that comes to the third shard is killed."""

    def __call__(self, name):
        if name == self.shards[2].name:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(name)


class Breaking(Tokenising):
    """Tokenising with a fault in its code."""

    def __call__(self, name):
        raise RuntimeError("a fault of ours")


def note_place(ctx, rank, world):
    """Writes down where a worker finds itself."""
    names = (
        "MASTER_ADDR",
        "MASTER_PORT",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "OMP_NUM_THREADS",
        "PYTHONHASHSEED",
    )
    write_json(ctx.work / f"place-{rank}.json", {"world": world, **{name: os.environ[name] for name in names}})
