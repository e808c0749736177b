"""Check A3.packed: packed sequences cost what each costs alone, on the model that training starts from.

The packed side is a step of the real loader, laid out and run as training does. The other side runs each sequence by
itself, without positions, packing or padding of ours, and takes its labels from the sequence.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from mmpt.ops import linear_cross_entropy
from mmpt.store.evidence import Metric
from mmpt.tokens.formats import IGNORE
from mmpt.train.distributed import Ranks
from mmpt.train.objective import lay
from mmpt.train.preparation import Prepared, ramp_end

SEQUENCES = 64  # steps are taken until this number of sequences was compared
STEPS = 8  # at most
# Nats per token that rounding may make of one sequence: batches of another shape add up in another order.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def packed_metrics(prepared: Prepared) -> list[Metric]:
    """packed_over_tolerance: the largest difference between the two losses of a sequence, as a share of TOLERANCE.

    Packed sequences that are none of the drawn ones, and drawn ones that were not packed, count in
    packed_sequences_unmatched.
    """
    model, loader = prepared.model, prepared.loader
    was_training = model.training
    model.eval()
    apart: list[float] = []
    unmatched = compared = 0
    first = min(ramp_end(loader), prepared.settings.steps - 1)
    try:
        for step in range(first, min(first + STEPS, prepared.settings.steps)):
            drawn = [loader.sources[kind].draw(index, dropped) for kind, index, dropped in loader.at(step).draws]
            alone = {_key(one.input_ids): one for one in drawn}
            seen = set()
            for key, loss in packed_losses(prepared, step):
                if key in alone:
                    apart.append(abs(loss - alone_loss(model, alone[key])))
                    seen.add(key)
                else:
                    unmatched += 1
            unmatched += len(alone.keys() - seen)
            compared += len(alone)
            if compared >= SEQUENCES:
                break
    finally:
        model.train(was_training)
    worst = max(apart) / TOLERANCE[model.dtype] if apart else None
    return [
        Metric("packed_over_tolerance", worst, len(apart), "x", "lower"),
        Metric("packed_sequences_unmatched", unmatched, compared, "sequences", "lower"),
    ]


def _key(ids: np.ndarray) -> bytes:
    return np.asarray(ids, np.int64).tobytes()


@torch.no_grad()
def packed_losses(prepared: Prepared, step: int) -> Iterator[tuple[bytes, float]]:
    """(ids of a packed sequence, mean nats of its targets), of one step as training lays it out and runs it."""
    model = prepared.model
    laid = lay(prepared.loader.at(step), prepared.settings, packs=model.packs, noise=False, ranks=Ranks.alone())
    for piece in laid.pieces:
        ids, positions = piece.input_ids.to(model.device), piece.position_ids.to(model.device)
        hidden = model.hidden(ids, positions, packed=True, lengths=piece.lengths).flatten(0, 1)
        targets = piece.targets.to(model.device)
        loss = linear_cross_entropy(hidden[targets.at], targets.labels, *model.head(), reduction="none")
        nll = loss.double().cpu().numpy()
        at = targets.at.cpu().numpy()
        flat, starts = ids.flatten().cpu().numpy(), np.flatnonzero(positions.flatten().cpu().numpy() == 0)
        for start, stop in zip(starts, [*starts[1:], len(flat)], strict=True):
            mine = (at >= start) & (at < stop)
            if mine.any():  # else padding
                yield _key(flat[start:stop]), float(nll[mine].mean())


@torch.no_grad()
def alone_loss(model, sequence) -> float:
    """Mean nats of a sequence's labels, run by itself."""
    ids = torch.as_tensor(np.asarray(sequence.input_ids)[None], dtype=torch.int64, device=model.device)
    hidden = model.hidden(ids)[0, :-1]
    labels = torch.as_tensor(np.asarray(sequence.labels)[1:], dtype=torch.int64, device=model.device)
    kept = labels != IGNORE
    return float(linear_cross_entropy(hidden[kept], labels[kept], *model.head(), reduction="none").double().mean())
