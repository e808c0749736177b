"""Batches: which examples each step sees, laid out in packed rows.

    step --Mixture--> counts by kind --totals--> draws --epoch permutation--> examples --pack--> rows

``batch(step)`` is a pure function of the settings, the data and the step: a resumed run, or one that skips
about, sees the same batches. The state that is saved is there to notice that settings or data changed, not to
restore anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import numpy as np

from mmpt.shards.counter_rng import permutation, stream, uniform
from mmpt.shards.mixture import KINDS, Mixture
from mmpt.shards.packing import pack, require_fit
from mmpt.store.canonical import digest_json
from mmpt.store.errors import UserError
from mmpt.tokens.formats import IGNORE

_BLOCK = 1024  # steps whose counts are worked out at once
_KEPT_EPOCHS = 2  # a step reaches over at most a few epoch borders; two permutations a kind are kept


class Packable(Protocol):
    """What is packed: input_ids and labels int32 [L], slots int8 [L]."""

    @property
    def input_ids(self) -> np.ndarray: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def slots(self) -> np.ndarray: ...


class Source(Protocol):
    """Where a kind's examples come from: ExampleSet or TextSet."""

    @property
    def lengths(self) -> np.ndarray: ...
    @property
    def has_prompt(self) -> bool: ...
    @property
    def identity(self) -> str: ...

    def __len__(self) -> int: ...
    def draw(self, index: int, empty_prompt: bool = False) -> Packable: ...


@dataclass(frozen=True)
class Batch:
    """One step's packed rows, B of them, L tokens each. The number of rows differs from step to step.

    input_ids: int64 [B, L]; padding at the end of a row.
    labels: int64 [B, L], aligned with input_ids (the loss shifts); -100 off the targets and on padding. The
        first token of a sequence is never a target, so a shifted label never reaches into the neighbour.
    position_ids: int64 [B, L], from 0 again in each sequence, and in the padding.
    task: int8 [B, L], index into KINDS, -1 on padding.
    slot: int8 [B, L], index into SLOTS(space), -1 off the targets.
    n_supervised: supervised tokens by kind, kinds without any left out.
    draws: (kind, index in its source, prompt dropped), in the order of the draws.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    position_ids: np.ndarray
    task: np.ndarray
    slot: np.ndarray
    n_supervised: dict[str, int]
    draws: tuple[tuple[str, int, bool], ...]

    @property
    def n_tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.task >= 0).sum())

    def digest(self) -> str:
        """SHA-256 of all the arrays: two equal batches agree."""
        arrays = (self.input_ids, self.labels, self.position_ids, self.task, self.slot)
        return hashlib.sha256(b"".join(repr(a.shape).encode() + a.tobytes() for a in arrays)).hexdigest()


def lay_out(
    rows: Sequence[Sequence[int]],
    sequences: Sequence[Packable],
    kinds: Sequence[int],
    row_len: int,
    pad_id: int,
) -> tuple[np.ndarray, ...]:
    """Write sequences into rows: (input_ids, labels, position_ids int64, task, slot int8), each [len(rows),
    row_len].

    Args:
        rows: as ``pack`` returns them. kinds: index into KINDS of each sequence.

    Raises:
        UserError: a sequence whose first token is a target: its label would come from another sequence.
    """
    shape = (len(rows), row_len)
    inputs, labels = np.full(shape, pad_id, np.int64), np.full(shape, IGNORE, np.int64)
    positions, task, slot = (
        np.zeros(shape, np.int64),
        np.full(shape, -1, np.int8),
        np.full(shape, -1, np.int8),
    )
    for row, members in enumerate(rows):
        start = 0
        for index in members:
            one = sequences[index]
            if one.labels[0] != IGNORE:
                raise UserError(
                    "the first token of a sequence is supervised",
                    found=f"label {int(one.labels[0])}",
                    expected="-100: no token of this sequence stands before it",
                )
            stop = start + len(one.input_ids)
            inputs[row, start:stop], labels[row, start:stop] = one.input_ids, one.labels
            positions[row, start:stop], slot[row, start:stop] = np.arange(stop - start), one.slots
            task[row, start:stop] = kinds[index]
            start = stop
        positions[row, start:] = np.arange(row_len - start)
    return inputs, labels, positions, task, slot


class Loader:
    """Batches of a mixture.

    Args:
        sources: examples by kind (see KINDS); kinds without a weight are ignored.
        mixture: counts by step.
        row_len: tokens of a packed row. pad_id: fills the rest of a row.
        prompt_dropout: probability that a t2a or t2i example gets the empty prompt, decided by its draw.
        seed: of the shuffles and the dropout.

    Raises:
        UserError: an example longer than a row.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        mixture: Mixture,
        *,
        row_len: int,
        pad_id: int,
        prompt_dropout: float = 0.0,
        seed: int = 0,
    ):
        self.sources = {kind: sources[kind] for kind in KINDS if mixture.weights.get(kind, 0) > 0}
        self.mixture, self.row_len, self.pad_id = mixture, row_len, pad_id
        self.prompt_dropout, self.seed, self.next_step = prompt_dropout, seed, 0
        require_fit(max(int(source.lengths.max()) for source in self.sources.values()), row_len)
        self._before = np.zeros((1, len(KINDS)), np.int64)  # row s: draws of each kind before step s
        self._orders: dict[tuple[str, int], np.ndarray] = {}
        self._counting = Lock()

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0; the next one is then due (``state_dict``). Raises as ``at``."""
        batch = self.at(step)
        self.next_step = step + 1
        return batch

    def at(self, step: int) -> Batch:
        """The batch of a step, and nothing else changes: another thread may ask, one at a time.

        Raises:
            UserError: no token of the batch is supervised.
        """
        draws = [(kind, index, dropped) for kind in self.sources for index, dropped in self._drawn(kind, step)]
        sequences = [self.sources[kind].draw(index, dropped) for kind, index, dropped in draws]
        kinds = [KINDS.index(kind) for kind, _, _ in draws]
        rows = pack([len(one.input_ids) for one in sequences], self.row_len)
        arrays = lay_out(rows, sequences, kinds, self.row_len, self.pad_id)
        labels, task = arrays[1], arrays[3]
        supervised = np.bincount(task[labels != IGNORE], minlength=len(KINDS))
        if not supervised.any():
            raise UserError(
                "no supervised token in a batch",
                where=f"step {step}",
                found=f"{len(draws)} examples: {', '.join(sorted({kind for kind, _, _ in draws}))}",
                fix="raise tokens_per_step, or look at the examples with `doit why examples`",
            )
        counted = {kind: int(n) for kind, n in zip(KINDS, supervised, strict=True) if n}
        inputs, labels, positions, task, slot = arrays
        return Batch(inputs, labels, positions, task, slot, counted, tuple(draws))

    def cursors(self, step: int) -> dict[str, int]:
        """Examples of each kind drawn before ``step``."""
        return {kind: int(self._totals(step)[KINDS.index(kind)]) for kind in self.sources}

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON: the next step, the draws up to it, and a digest of settings and data."""
        return {
            "next_step": self.next_step,
            "cursors": self.cursors(self.next_step),
            "settings": self.settings,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the saved step.

        Raises:
            UserError: the state belongs to other data, mixture, seed or row length.
        """
        if state.get("settings") != self.settings:
            raise UserError(
                "the saved loader state belongs to other data or another mixture",
                found=state.get("settings"),
                expected=self.settings,
                fix="resume with the profile the checkpoint was made with, or start anew",
            )
        step = int(state["next_step"])
        if state["cursors"] != self.cursors(step):
            raise UserError(
                "the saved loader state contradicts itself",
                where=f"step {step}",
                found=state["cursors"],
                expected=self.cursors(step),
            )
        self.next_step = step

    @property
    def settings(self) -> str:
        """Digest of everything that decides the batches."""
        mixture = self.mixture
        return digest_json(
            {
                "weights": dict(mixture.weights),
                "mean_lengths": {k: float(v) for k, v in mixture.mean_lengths.items()},
                "tokens_per_step": mixture.tokens_per_step,
                "ramp": [mixture.ramp_start, mixture.ramp_steps],
                "seeds": [mixture.seed, self.seed],
                "row_len": self.row_len,
                "pad_id": self.pad_id,
                "prompt_dropout": self.prompt_dropout,
                "sources": {k: s.identity for k, s in self.sources.items()},
            }
        )

    def _drawn(self, kind: str, step: int) -> list[tuple[int, bool]]:
        """(example, prompt dropped) of this kind's draws in a step."""
        column, source = KINDS.index(kind), self.sources[kind]
        draws = np.arange(self._totals(step)[column], self._totals(step + 1)[column])
        indices = [int(self._order(kind, draw // len(source))[draw % len(source)]) for draw in draws.tolist()]
        dropped = uniform(stream(self.seed, "prompt dropout", kind), draws) < self.prompt_dropout
        return [(index, bool(drop) and source.has_prompt) for index, drop in zip(indices, dropped, strict=True)]

    def _order(self, kind: str, epoch: int) -> np.ndarray:
        if (kind, epoch) not in self._orders:
            for old in [key for key in self._orders if key[0] == kind][: 1 - _KEPT_EPOCHS]:
                del self._orders[old]
            self._orders[kind, epoch] = permutation(stream(self.seed, "epoch", kind, epoch), len(self.sources[kind]))
        return self._orders[kind, epoch]

    def _totals(self, step: int) -> np.ndarray:
        """int64 [len(KINDS)]: draws of each kind before ``step``."""
        with self._counting:  # the loop asks for its state while a thread lays out the next steps
            while step >= len(self._before):
                first = len(self._before) - 1
                counts = self.mixture.count_table(np.arange(first, first + _BLOCK))
                self._before = np.concatenate([self._before, self._before[-1] + np.cumsum(counts, axis=0)])
            return self._before[step]


def make_loader(
    sources: Mapping[str, Source],
    *,
    weights: Mapping[str, float],
    text_replay: float,
    ramp: float,
    steps: int,
    tokens_per_step: int,
    row_len: int,
    pad_id: int,
    prompt_dropout: float,
    seed: int,
) -> Loader:
    """A loader from a profile's numbers.

    Args:
        weights: share of the task examples by task. text_replay: share of all examples that are plain text.
        ramp: share of ``steps`` with read tasks only; the shares then move to ``weights`` over as many steps.
    """
    total = sum(weights.values())
    if total <= 0:
        raise UserError("no task has a weight", where="mixture.weights", found=dict(weights), expected="one above 0")
    shares = {task: (1 - text_replay) * weight / total for task, weight in weights.items() if weight > 0}
    if text_replay > 0:
        shares["text"] = text_replay
    means = {kind: float(source.lengths.mean()) for kind, source in sources.items() if len(source)}
    ramp_steps = round(ramp * steps)
    mixture = Mixture(shares, means, tokens_per_step, ramp_start=ramp_steps, ramp_steps=ramp_steps, seed=seed)
    return Loader(sources, mixture, row_len=row_len, pad_id=pad_id, prompt_dropout=prompt_dropout, seed=seed)
