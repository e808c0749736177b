"""The tiny project with one stage more, which can be spread, and `doit` in it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.build.conftest import Tiny

TABLE = """
STAGES += (
    Stage("shards", "squares, a file each", "bodies.spread:shards", slice=("pieces",),
          outputs=(Output("squares.json"),)),
)
"""
BODIES = '''
"""A stage that can be spread: squares."""

import os
import signal
import time

from mmpt.launch import slurm
from mmpt.store.canonical import read_json, write_json
from mmpt.store.errors import UserError

slurm.LOOK, slurm.ASK, slurm.SETTLING = (0.05, 0.1), (0.1, 0.2), 0.3  # a disk and a slurm that answer at once


def shards(ctx):
    ctx.spread(part, each=Squares)
    part(ctx, 0, 1)
    pieces = range(ctx.profile["pieces.n"])
    write_json(ctx.out / "squares.json", [read_json(ctx.work / f"{piece}.json") for piece in pieces])


class Squares:
    def __init__(self, ctx):
        self.ctx = ctx

    @staticmethod
    def pieces(ctx):
        return [str(piece) for piece in range(ctx.profile["pieces.n"])]

    def __call__(self, piece):
        self.ctx.log(f"piece {piece} in process {os.getpid()}")
        time.sleep(self.ctx.profile["pieces.seconds"])
        write_json(self.ctx.work / f"{piece}.json", int(piece) ** 2)


def part(ctx, rank, world):
    mine = range(rank, ctx.profile["pieces.n"], world)
    for done, piece in enumerate(mine):
        if (ctx.work / f"{piece}.json").exists():
            continue
        ctx.log(f"piece {piece} by {rank} of {world} in process {os.getpid()}")
        _mishap(ctx, rank)
        time.sleep(ctx.profile["pieces.seconds"])
        write_json(ctx.work / f"{piece}.json", piece**2)
        ctx.progress(done + 1, len(mine), "squares")
        ctx.info(world=world)


def _mishap(ctx, rank):
    how, once = ctx.profile["pieces.how"], ctx.work / "once"
    if rank != 1 or how == "well":
        return
    while how == "wait" and not (ctx.work / "go").exists():
        time.sleep(0.02)
    if how == "refuse" or (how == "refuse once" and not once.exists()):
        once.touch()
        raise UserError("an odd piece", where="pieces.how", found=how)
    if how == "break":
        raise RuntimeError("the second worker went wrong")
    if how == "die" or (how == "die once" and not once.exists()):
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
'''


class Spread(Tiny):
    """Tiny, with stage shards and a launcher."""

    def __init__(self, folder: Path, launcher: str):
        super().__init__(folder)
        with open(folder / "bodies" / "table.py", "a") as table:
            table.write(TABLE)
        (folder / "bodies" / "spread.py").write_text(BODIES.lstrip("\n"))
        with open(folder / "smoke.yaml", "a") as profile:
            profile.write(f"pieces: {{n: 5, seconds: 0.0, how: well}}\nlauncher: {launcher}\n")

    def squares(self) -> list[int]:
        return json.loads((self.root / "shards" / "data" / "squares.json").read_text())

    def receipt(self) -> dict:
        return json.loads((self.root / "shards" / "receipt.json").read_text())["predicate"]

    @property
    def log(self) -> str:
        path = self.root / "logs" / "shards.log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def spread(tmp_path):
    """Makes a project with a launcher."""
    return lambda launcher: Spread(tmp_path / "project", launcher)


def processes_below(folder: Path) -> list[str]:
    """Command lines of live processes that name the folder or work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if words and (str(folder) in words or Path(os.readlink(process / "cwd")).is_relative_to(folder)):
                found.append(words)
    return found


def kill(process: subprocess.Popen, signum: int = signal.SIGKILL) -> None:
    """End `doit`, as a machine that runs out of memory does."""
    process.send_signal(signum)
    process.communicate(timeout=60)
