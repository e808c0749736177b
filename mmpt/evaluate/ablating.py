"""Losses of several checkpoints after own, swapped and empty conditions, in pieces that workers share.

work/ablation/<checkpoint>-<task>.safetensors     correct, swapped, empty (emit tasks): float64 [n], nats per payload
token

A piece is one task of one checkpoint: the items of a task go through the model in the same batches with any number of
workers, so that their losses are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmpt.evaluate.ablation import Ablation, ablate
from mmpt.evaluate.checkpoint import EvalContext
from mmpt.evaluate.sets import Record, ablation_sets
from mmpt.store.shares import share
from mmpt.store.stage import StageContext
from mmpt.store.tensors import load_tensors, save_tensors

Piece = tuple[str, str]  # checkpoint, task


class Ablating:
    """The ablations of some tasks for some checkpoints.

    Args:
        ctx: of a stage with the golden sets among its inputs.
        tasks: those that are asked for; tasks without items are left out.
        checkpoints: name -> folder.
    """

    def __init__(self, ctx: StageContext, tasks: Sequence[str], checkpoints: Mapping[str, Path]):
        self.ctx, self.checkpoints = ctx, checkpoints
        self.sets: dict[str, list[Record]] = {
            task: records for task, records in ablation_sets(ctx.inputs["golden"]).items() if task in tasks
        }
        self.pieces: list[Piece] = [(name, task) for name in checkpoints for task in self.sets]

    def mine(self, rank: int, world: int) -> list[Piece]:
        """The share of worker `rank` of `world`."""
        sizes = [("ids", float(sum(len(one["target_ids"]) for one in self.sets[task]))) for _, task in self.pieces]
        return [self.pieces[place] for place in share(sizes, rank, world)]

    def write(self, pieces: Sequence[Piece]) -> None:
        """Those of `pieces` that are not there yet; each checkpoint is opened once."""
        missing = [piece for piece in pieces if not self._path(piece).is_file()]
        if not missing:
            return
        workshop = EvalContext.of(self.ctx)
        for name in dict.fromkeys(checkpoint for checkpoint, _ in missing):
            with workshop.opened(self.checkpoints[name]) as model:
                for piece in (one for one in missing if one[0] == name):
                    records = self.sets[piece[1]]
                    found = ablate(model, workshop.space, records, self._bar(f"{piece[1]}, {name}"))
                    self._path(piece).parent.mkdir(parents=True, exist_ok=True)
                    save_tensors(self._path(piece), found.tensors(), {})
            del model  # before the next one comes

    def of(self, name: str) -> dict[str, Ablation]:
        """A checkpoint's ablations by task, once all of its pieces are there."""
        return {
            task: Ablation.restored(records, load_tensors(self._path((name, task))))
            for task, records in self.sets.items()
        }

    def _path(self, piece: Piece) -> Path:
        return self.ctx.work / "ablation" / f"{piece[0]}-{piece[1]}.safetensors"

    def _bar(self, text: str):
        return lambda done, total: self.ctx.progress(done, total, text)
