"""Golden outputs of a finished training, piece by piece, kept until the stage is published.

work/golden/<model>-<piece>.safetensors     ids, offsets, ended, mass; <model>: step_<k>, random, or learned_end: sounds
                                            of the last step whose length the model chooses
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmpt.evaluate.checkpoint import EvalContext, Trained
from mmpt.evaluate.emission import random_weights
from mmpt.evaluate.endings import LearnedEnd, ending_pieces
from mmpt.evaluate.golden import Outputs, Piece, assembled, golden_pieces, run_piece
from mmpt.evaluate.sets import Codecs, golden_sets
from mmpt.evaluate.trend import setting_of
from mmpt.generate import Generated
from mmpt.model.multimodal import MultimodalLM
from mmpt.store.stage import StageContext
from mmpt.store.tasks import EMIT_TASKS
from mmpt.store.tensors import load_tensors, save_tensors

RANDOM, ENDINGS = "random", "learned_end"


@dataclass(frozen=True)
class ModelPiece:
    """One piece of one model's outputs."""

    model: str
    index: int
    piece: Piece


class Generating:
    """All golden outputs of a run: of both checkpoints, t2a and t2i of random weights, and sounds of free length.

    Args:
        ctx: of stage generate.
    """

    def __init__(self, ctx: StageContext):
        self.ctx, self.workshop, self.trained = ctx, EvalContext.of(ctx), Trained.of(ctx.inputs["train"])
        self.sets, self.setting = golden_sets(ctx.inputs["golden"]), setting_of(ctx)
        endings = self._endings()
        emit = {task: records for task, records in self.sets.items() if task in EMIT_TASKS}
        whole = golden_pieces(self.workshop.space, self.sets, self.setting)
        control = golden_pieces(self.workshop.space, emit, self.setting, free=False)
        steps = dict.fromkeys((self.trained.initial, self.trained.final))
        self.pieces = [
            ModelPiece(model, index, piece)
            for model, pieces in (*((f"step_{step}", whole) for step in steps), (ENDINGS, endings), (RANDOM, control))
            for index, piece in enumerate(pieces)
        ]

    def sizes(self) -> list[tuple[str, float]]:
        """("ids", how many at most) of each piece."""
        return [("ids", one.piece.size) for one in self.pieces]

    def write(self, pieces: Sequence[ModelPiece]) -> None:
        """Those of ``pieces`` that are not there yet; each model is opened once."""
        missing = [one for one in pieces if not self._path(one).is_file()]
        done, total = 0, sum(one.piece.size for one in missing)
        for model in dict.fromkeys(one.model for one in missing):
            self.ctx.progress(done, total, model)
            with self._opened(model) as opened:
                for one in (one for one in missing if one.model == model):
                    _save(self._path(one), run_piece(opened, self.workshop.space, one.piece, self.setting))
                    done += one.piece.size
                    self.ctx.progress(done, total, model)
            del opened  # before the next one comes

    def outputs(self, model: str) -> dict[tuple[str, str], Outputs]:
        """A model's outputs by (task, decoding), once all of its pieces are there."""
        return assembled(self.sets, [(one.piece, _load(self._path(one))) for one in self.pieces if one.model == model])

    def endings(self) -> list[tuple[Piece, list[Generated]]]:
        """Sounds whose length the model chose, once all of their pieces are there."""
        return [(one.piece, _load(self._path(one))) for one in self.pieces if one.model == ENDINGS]

    def _endings(self) -> list[Piece]:
        records = self.sets.get("t2a", [])
        stream = self.workshop.space.stream
        if not records or not stream.open_ended:
            return []
        codec = Codecs.open(self.ctx.inputs["codecs"], self.ctx.device).audio
        profile = self.ctx.profile
        asked = LearnedEnd.of(profile["generate"], codec, profile["codecs.audio.clip_seconds"])
        return ending_pieces(records, asked, self.setting, stream.width)

    def _path(self, one: ModelPiece) -> Path:
        return self.ctx.work / "golden" / f"{one.model}-{one.index:04d}.safetensors"

    def _opened(self, model: str) -> AbstractContextManager[MultimodalLM]:
        steps = {f"step_{step}": step for step in (self.trained.initial, self.trained.final)}
        steps[ENDINGS] = self.trained.final
        if model in steps:
            return self.workshop.opened(self.trained.path(steps[model]))
        return _random(self.workshop, self.ctx.seed)


@contextmanager
def _random(workshop: EvalContext, seed: int) -> Iterator[MultimodalLM]:
    model = workshop.untrained()
    random_weights(model, seed)
    yield model


def _save(path: Path, outputs: Sequence[Generated]) -> None:
    tensors = {
        "ids": np.concatenate([np.zeros(0, np.int32), *(one.ids for one in outputs)]),
        "offsets": np.cumsum([0, *(len(one.ids) for one in outputs)], dtype=np.int64),
        "ended": np.array([one.ended for one in outputs], np.uint8),
        "mass": np.array([one.legal_mass for one in outputs], np.float64),
    }
    save_tensors(path, tensors, {})


def _load(path: Path) -> list[Generated]:
    stored = load_tensors(path)
    parts = np.split(stored["ids"], stored["offsets"][1:-1])
    return [
        Generated(ids, bool(ended), float(mass))
        for ids, ended, mass in zip(parts, stored["ended"], stored["mass"], strict=True)
    ]
