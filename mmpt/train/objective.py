"""The objective: sum over tasks of w_task times that task's token-mean loss over the global batch.

Weighing by tokens alone would give long sounds nearly the whole gradient. Sums of each task and slot come
from the same pass. Only the hidden rows that predict a supervised token reach the head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mmpt.model.multimodal import MultimodalLM
from mmpt.ops import linear_cross_entropy
from mmpt.shards.counter_rng import stream
from mmpt.shards.loader import Batch
from mmpt.shards.mixture import KINDS
from mmpt.shards.packing import stream_order
from mmpt.tokens.formats import IGNORE, SLOTS
from mmpt.tokens.space import TokenSpace
from mmpt.train.distributed import Ranks
from mmpt.train.settings import TrainSettings
from mmpt.train.sharding import sharded


@dataclass(frozen=True)
class Targets:
    """The S supervised tokens of packed rows [B, L].

    Args:
        at: int64 [S], index into the B * L hidden states of the token *before* each label.
        labels: int64 [S].
        task: int64 [S], index into KINDS.
        slot: int64 [S], index into SLOTS(space).
    """

    at: Tensor
    labels: Tensor
    task: Tensor
    slot: Tensor

    def to(self, device: torch.device) -> Targets:
        """The same on `device`; a copy from pinned memory does not wait."""
        parts = (self.at, self.labels, self.task, self.slot)
        return Targets(*(part.to(device, non_blocking=True) for part in parts))


@dataclass(frozen=True)
class Sums:
    """Sums over supervised tokens.

    Args:
        nll: float64 [kinds, slots], nats.
        count: int64 [kinds, slots].
    """

    nll: np.ndarray
    count: np.ndarray

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.nll + other.nll, self.count + other.count)

    @staticmethod
    def zero(space: TokenSpace) -> Sums:
        """Nothing seen yet."""
        shape = (len(KINDS), len(SLOTS(space)))
        return Sums(np.zeros(shape), np.zeros(shape, np.int64))


@dataclass(frozen=True)
class Tally:
    """The objective and the sums of some rows, on the device that computed them. Tallies of parts add up.

    Args:
        values: fp64 [1 + 2 * kinds * slots]: objective, nll, count. Counts are exact.
    """

    values: Tensor

    @property
    def objective(self) -> Tensor:
        """fp64 scalar on the device."""
        return self.values[0]

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.values + other.values)

    def read(self, space: TokenSpace) -> tuple[float, Sums]:
        """(objective, sums) on the host; waits for the device."""
        return read_tally(self.values.cpu().numpy(), space)

    @staticmethod
    def zero(space: TokenSpace, device: torch.device) -> Tally:
        """Nothing seen yet."""
        size = 1 + 2 * len(KINDS) * len(SLOTS(space))
        return Tally(torch.zeros(size, dtype=torch.float64, device=device))


def read_tally(values: np.ndarray, space: TokenSpace) -> tuple[float, Sums]:
    """(objective, sums) of a tally's values."""
    nll, count = values[1:].reshape(2, len(KINDS), len(SLOTS(space)))
    return float(values[0]), Sums(nll.copy(), count.astype(np.int64))


def targets_of(labels: np.ndarray, task: np.ndarray, slot: np.ndarray, device: torch.device) -> Targets:
    """Shift labels onto the hidden states that predict them.

    Args:
        labels: int [B, L], aligned with the inputs, IGNORE where not supervised.
        task, slot: int [B, L], as in `Targets`.

    Raises:
        ValueError: the first token of a row is a target, which no hidden state predicts.
    """
    row, column = np.nonzero(labels != IGNORE)
    if (column == 0).any():
        raise ValueError(f"the first token of row {int(row[column == 0][0])} is a target: no hidden state predicts it")
    flat = row * labels.shape[1] + column

    def put(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(device)

    return Targets(put(flat - 1), put(labels.ravel()[flat]), put(task.ravel()[flat]), put(slot.ravel()[flat]))


@dataclass(frozen=True)
class MicroBatch:
    """Rows that go through the model at once, on the host; R rows of L tokens.

    Args:
        input_ids, position_ids, labels: int64 [R, L].
        task, slot: int8 [R, L].
        lengths: of the sequences of a stream without padding, where R is 1; None: packed rows.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    labels: np.ndarray
    task: np.ndarray
    slot: np.ndarray
    lengths: tuple[int, ...] | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens without padding."""
        return int((self.task >= 0).sum())

    def stream(self) -> MicroBatch:
        """The same sequences without padding."""
        places, lengths = stream_order(self.position_ids, self.task >= 0)
        arrays = (self.input_ids, self.position_ids, self.labels, self.task, self.slot)
        ids, positions, labels, task, slot = (array.ravel()[places][None] for array in arrays)
        return MicroBatch(ids, positions, labels, task, slot, lengths)


def micro_batches(batch: Batch, rows: int) -> list[MicroBatch]:
    """A batch cut into pieces of `rows` rows. They do not depend on the rank that runs them."""
    cuts = [slice(start, start + rows) for start in range(0, len(batch.input_ids), rows)]
    return [
        MicroBatch(
            batch.input_ids[cut],
            batch.position_ids[cut],
            batch.labels[cut],
            batch.task[cut],
            batch.slot[cut],
        )
        for cut in cuts
    ]


OPEN_PIECES = 8  # micro-batches of a step at most, if the settings leave it open and dropout depends on the cut


def rows_at_once(rows: int, micro_rows: int, noise: bool, world: int) -> int:
    """Rows per micro-batch of a step with `rows` rows.

    Args:
        micro_rows: the setting; 0: open. A model without noise then has one micro-batch per rank, since the cut changes
            only the order of additions. Dropout's noise belongs to the micro-batch, so with noise the cut must not
            depend on the number of ranks.
        noise: `draws_noise` of the model.
        world: number of ranks.
    """
    return max(1, micro_rows or -(-rows // (OPEN_PIECES if noise else world)))


def draws_noise(model: MultimodalLM) -> bool:
    """Whether the model's forward in training draws random numbers, for dropout of LoRA or of the base."""
    own = any(one.p > 0 for one in model.modules() if isinstance(one, nn.Dropout))
    return own or (getattr(model.config, "attention_dropout", None) or 0.0) > 0


def token_weights(n_supervised: Mapping[str, int], task_weights: Mapping[str, float], device: torch.device) -> Tensor:
    """fp32 [kinds]: w_task / (supervised tokens of that task in the global batch); 0 for a task without tokens."""
    weights = [task_weights[kind] / n_supervised[kind] if n_supervised.get(kind) else 0.0 for kind in KINDS]
    return torch.tensor(weights, dtype=torch.float32, device=device)


def decode_ranges(space: TokenSpace, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """(lo, hi), int64 [slots] each: decoding chooses a token of a slot among the ids lo..hi - 1.

    A payload slot has its segment. Text also competes with its end token, which is in SPECIAL, right after TEXT: its
    range ends with SPECIAL. The grammar places the ends of images and sounds: their range is the whole vocabulary.
    """
    lo, hi = [], []
    everything = (0, space.vocab_size_total)
    with_end = (0, space.ranges["SPECIAL"].stop)
    for name in SLOTS(space):
        if name in ("text", "text_end"):
            bounds = with_end
        elif (segment := space.ranges.get(name.upper())) is not None:
            bounds = (segment.start, segment.stop)
        else:
            bounds = everything
        lo.append(bounds[0])
        hi.append(bounds[1])
    return torch.tensor(lo, device=device), torch.tensor(hi, device=device)


def loss_of(
    model: MultimodalLM,
    hidden: Tensor,
    targets: Targets,
    weights: Tensor,
    settings: TrainSettings,
    ranges: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tally]:
    """(the objective's share of some rows, their tally).

    Args:
        hidden: [B, L, H].
        weights: fp32 [kinds] of `token_weights`.
        ranges: of `decode_ranges`; None: the softmax runs over the whole vocabulary.
    """
    slots = len(SLOTS(model.space))
    base, new = model.head()
    result = linear_cross_entropy(
        hidden.flatten(0, 1)[targets.at],
        targets.labels,
        base,
        new,
        column_range=None if ranges is None else (ranges[0][targets.slot], ranges[1][targets.slot]),
        group=targets.task * slots + targets.slot,
        num_groups=len(KINDS) * slots,
        token_weight=weights[targets.task],
        z_loss=settings.z_loss,
        label_smoothing=settings.label_smoothing,
        reduction="sum",
        max_valid=targets.labels.numel(),  # without it CUDA counts the supervised labels and waits for the count
        return_stats=True,
    )
    parts = (result.loss.detach()[None], result.group_loss, result.group_count)
    return result.loss, Tally(torch.cat([part.double() for part in parts]))


@dataclass(frozen=True)
class PreparedStep:
    """One rank's part of a step, on the host, ready to be copied to the device.

    Args:
        weights: fp32 [kinds] of `token_weights`.
        pieces: this rank's micro-batches.
        total: number of micro-batches of the step, over all ranks.
    """

    batch: Batch
    weights: Tensor
    pieces: tuple[PreparedMicroBatch, ...]
    total: int


@dataclass(frozen=True)
class PreparedMicroBatch:
    """A `MicroBatch` as tensors, with its targets.

    Args:
        index: its number in the step.
        input_ids, position_ids: int64 [R, L].
        lengths: as of `MicroBatch`.
    """

    index: int
    input_ids: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...] | None
    targets: Targets


def lay(
    batch: Batch, settings: TrainSettings, *, packs: bool, noise: bool, ranks: Ranks, pin: bool = False
) -> PreparedStep:
    """Cut a batch into its micro-batches and find their targets. Needs no device and no model.

    Args:
        packs: make streams without padding.
        noise: `draws_noise` of the model.
        pin: use pinned memory, from which a copy to CUDA does not wait.
    """

    def put(values: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        return tensor.pin_memory() if pin else tensor

    rows = rows_at_once(len(batch.input_ids), settings.micro_rows, noise, ranks.world)
    micro = micro_batches(batch, rows)
    pieces = []
    for index in ranks.share([one.tokens for one in micro]):
        one = micro[index].stream() if packs else micro[index]
        found = targets_of(one.labels, one.task, one.slot, torch.device("cpu"))
        targets = Targets(*(put(part.numpy()) for part in (found.at, found.labels, found.task, found.slot)))
        pieces.append(PreparedMicroBatch(index, put(one.input_ids), put(one.position_ids), one.lengths, targets))
    weights = token_weights(batch.n_supervised, settings.task_weights, torch.device("cpu"))
    return PreparedStep(batch, put(weights.numpy()), tuple(pieces), len(micro))


def backward(
    model: MultimodalLM,
    batch: Batch | PreparedStep,
    settings: TrainSettings,
    ranges: tuple[Tensor, Tensor] | None,
    step: int = 0,
    ranks: Ranks = Ranks.alone(),
) -> Tally:
    """Add this rank's share of the gradients of one global batch; returns its tally. Nothing waits for the device.

    Gradients and tallies of the ranks add up to those of the batch.

    Args:
        batch: prepared by `lay` here, unless it was before.
        ranges: as of `loss_of`.
        step: decides the dropout, with the settings' seed and the micro-batch.
    """
    device = model.device
    laid = (
        batch
        if isinstance(batch, PreparedStep)
        else lay(batch, settings, packs=model.packs, noise=draws_noise(model), ranks=ranks)
    )
    weights = laid.weights.to(device, non_blocking=True)
    total = Tally.zero(model.space, device)
    for piece in laid.pieces:
        targets = piece.targets.to(device)
        with dropout_of(settings.seed, step, piece.index, device):
            hidden = model.hidden(
                piece.input_ids.to(device, non_blocking=True),
                piece.position_ids.to(device, non_blocking=True),
                packed=True,
                lengths=piece.lengths,
            )
            loss, tally = loss_of(model, hidden, targets, weights, settings, ranges)
            loss.backward()
        total = total + tally
    if sharded(model):
        for _ in range(ranks.turns(laid.total) - len(laid.pieces)):
            _empty_turn(model)
    return total


def _empty_turn(model: MultimodalLM) -> None:
    """A forward and backward that add nothing: the other ranks wait for this one's part of every layer."""
    token = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    lengths = (1,) if model.packs else None
    (model.hidden(token, token, packed=False, lengths=lengths).sum() * 0).backward()


@contextlib.contextmanager
def dropout_of(seed: int, step: int, micro: int, device: torch.device) -> Iterator[None]:
    """Inside the block torch draws from the random state of a micro-batch, whichever rank runs it and when; afterwards
    the state from before is back.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(stream(seed, "dropout", step, micro)) >> 1)
        yield
