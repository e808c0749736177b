"""Packed sequences must not see each other: hidden states of a sequence alone, and behind other ones.

Attention with a mask keeps the sequences of a packed row apart. Recurrent and convolutional layers (Mamba2, Lfm2,
Qwen3Next, FalconH1) carry their state across the border, and transformers does not reset it without help
(huggingface/transformers#46859). The test runs the model that is there, so no list of architectures is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmpt.model.multimodal import MultimodalLM
from mmpt.store.errors import UserError

# Two runs of equal shapes give equal bits where rows do not see each other. Experts of a mixture get batches whose
# shape depends on all tokens; what that changes by rounding is measured (`noise`) and allowed NOISE times.
EXACT = 1e-6
NOISE = 4.0
# The same sequence in a batch of another shape differs by rounding: largest share by dtype. A sequence at wrong
# positions, or one that sees another, differs by about 1.
ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
LENGTHS = (40, 33, 24)  # tokens of the random sequences of `require_isolation`


@dataclass(frozen=True)
class Isolation:
    """How much packing changes hidden states. Differences are shares of the hidden states' root mean square.

    Args:
        neighbour: largest difference of any value when the ids of the sequence before are replaced.
        noise: the same for the sequence in front, which cannot see what follows.
        neighbour_bound: largest `neighbour` that counts as none.
        alone: root mean square difference between a sequence packed behind others and the same alone.
        alone_bound: largest `alone` that counts as rounding.
        sequences: how many were compared.
    """

    neighbour: float
    noise: float
    neighbour_bound: float
    alone: float
    alone_bound: float
    sequences: int

    @property
    def isolated(self) -> bool:
        """Whether packed sequences are computed as if each were alone. False for NaN."""
        return self.neighbour <= self.neighbour_bound and self.alone <= self.alone_bound

    def to_json(self) -> dict[str, Any]:
        """All values, and `isolated`."""
        return {**asdict(self), "isolated": self.isolated}


@torch.no_grad()
def packing_isolation(model: MultimodalLM, sequences: Sequence[np.ndarray]) -> Isolation:
    """Compare packed sequences with the same ones alone, run as training runs them, without dropout.

    Args:
        model: its mode (training or evaluation) is restored.
        sequences: int ids [n_i] of at least two sequences, each of at least two different ids.

    Raises:
        ValueError: fewer than two sequences, or a first one that its reversal does not change.
    """
    first, *others = (np.asarray(one, np.int64) for one in sequences)
    other = first[::-1].copy()
    if not others or (first == other).all():
        raise ValueError("needs two sequences, the first of at least two different ids")
    was_training = model.training
    model.eval()
    try:
        behind, behind_other = (_packed(model, [one, *others])[len(first) :] for one in (first, other))
        before, before_other = (_packed(model, [*others, one])[: -len(first)] for one in (first, other))
        alone = torch.cat([_packed(model, [one]) for one in others])
    finally:
        model.train(was_training)
    size, rounding = float(alone.square().mean().sqrt()), ROUNDING[model.dtype]
    noise = float((before - before_other).abs().max()) / size
    return Isolation(
        neighbour=float((behind - behind_other).abs().max()) / size,
        noise=noise,
        neighbour_bound=min(max(EXACT, NOISE * noise), rounding),
        alone=float((behind - alone).square().mean().sqrt()) / size,
        alone_bound=rounding,
        sequences=len(others),
    )


def _packed(model: MultimodalLM, sequences: Sequence[np.ndarray]) -> Tensor:
    """fp64 [tokens, H] on the host: hidden states of sequences in one row, as `mmpt.train.objective.backward` asks."""
    lengths = tuple(map(len, sequences))
    ids = torch.from_numpy(np.concatenate(sequences))[None].to(model.device)
    positions = torch.cat([torch.arange(n) for n in lengths])[None].to(model.device)
    hidden = model.hidden(ids, positions, packed=True, lengths=lengths if model.packs else None)
    return hidden[0].double().cpu()


def require_isolation(model: MultimodalLM, where: object, seed: int = 0) -> Isolation:
    """The measure on random text ids.

    Raises:
        UserError: packed sequences change each other, or the base does not run as training would run it.
    """
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(0, model.space.text_vocab_size, n) for n in LENGTHS]
    architecture = type(model.lm.get_base_model()).__name__
    try:
        found = packing_isolation(model, sequences)
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        said = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            "this base does not run on packed sequences",
            where=where,
            found=f"{architecture}: {type(error).__name__}: {said}",
            expected="a decoder that takes position_ids and an attention mask",
            fix="use a base with attention layers only, Qwen3 for example",
        ) from error
    if not found.isolated:
        raise UserError(
            "packed sequences change each other in this base",
            where=where,
            found=f"{architecture}: hidden states differ by {found.neighbour:.2g} with another sequence before them, "
            f"by {found.alone:.2g} from the sequence alone{_layer_kinds(model)}",
            expected=f"at most {found.neighbour_bound:.1g} and {found.alone_bound:.1g} of their size",
            fix="use a base with attention layers only: recurrent and convolutional layers keep their state across "
            "the border of two sequences",
        )
    return found


def _layer_kinds(model: MultimodalLM) -> str:
    kinds = sorted(set(getattr(model.config, "layer_types", None) or ()))
    return f"; layers: {', '.join(kinds)}" if kinds else ""
