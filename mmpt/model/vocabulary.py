"""The segmented vocabulary: the base's rows stay as they are, the new rows are parameters of their own.

Ids below `split` (the token space's text_vocab_size) are rows of the base matrix, ids from `split` on are
new rows. A base matrix may be longer than `split` (Qwen3 pads 151,669 to 151,936): nobody looks at the
surplus rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SegmentedEmbedding(nn.Module):
    """Embedding lookup over base and new rows.

    Args:
        base: [V0', H], the base model's matrix, V0' >= split; only this module's `rows` are made to train.
        rows: fp32 [T, H], start values of the new rows.
        split: number of base rows in use.
    """

    def __init__(self, base: nn.Parameter, rows: Tensor, split: int):
        super().__init__()
        self.weight = base  # this name is where the base model and its checkpoints have the matrix
        self.rows = nn.Parameter(rows)
        self.split = split

    def forward(self, ids: Tensor) -> Tensor:
        """ids int64 [...] in [0, split + T) -> [..., H] in the base's dtype."""
        new = ids >= self.split
        base = F.embedding(torch.where(new, 0, ids), self.weight)
        rows = F.embedding(torch.where(new, ids - self.split, 0), self.rows)
        return torch.where(new[..., None], rows.to(base.dtype), base)


def initial_rows(base: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Start values fp32 [count, H] that look like base rows: their mean and spread a dimension, their typical
    norm.

    Each row is drawn on its own with the full spread (two rows differ as much as two words do; the mean plus
    a little noise, as resize_token_embeddings gives, makes them all but equal) and then scaled to the median
    norm of the base, so that neither the first block nor the softmax sees rows of an unusual size.
    base: [V0, H], the rows in use.
    """
    mean, spread = _mean_and_spread(base)
    noise = torch.randn(count, base.shape[1], generator=generator).to(base.device)
    drawn = mean + spread * noise
    norm = torch.cat([rows.float().norm(dim=1) for rows in base.split(ROWS_AT_ONCE)]).median()
    return drawn * (norm / drawn.norm(dim=1, keepdim=True).clamp_min(1e-12))


# A whole embedding in fp32 is 2.5 GB for Qwen3-8B, on every rank. 512 columns, since sums of columns that begin at a
# multiple of 64 come out bit for bit as those of the whole matrix.
ROWS_AT_ONCE, COLUMNS_AT_ONCE = 1 << 14, 512


def _mean_and_spread(base: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 [H] each, over the rows of base [V0, H]."""
    found = [(one.mean(0), one.std(0)) for one in map(Tensor.float, base.split(COLUMNS_AT_ONCE, dim=1))]
    mean, spread = (torch.cat(parts) for parts in zip(*found, strict=True))
    return mean, spread


QUIET_SPREAD = 0.3  # of the base's; SmolLM2-135M's text loss rose by 0.22 nats at 1.0, by 0.00002 at this


def quiet_rows(base: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Start values fp32 [count, H] for output rows that take almost no probability from text: near the mean row.

    The mean row's logit is the mean of the base's logits, so by Jensen's inequality it never gets more than 1/V0 of
    the probability, and far less where the base is sure of something. The spread keeps the rows apart; little of it,
    because of many rows the few that happen to fit the hidden states would take it all.
    base: [V0, H], the rows in use.
    """
    mean, spread = _mean_and_spread(base)
    noise = torch.randn(count, base.shape[1], generator=generator).to(base.device)
    return mean + QUIET_SPREAD * spread * noise


CODE_NOISE = 0.1  # share of a code row's spread that is its own, so that equal code vectors still give two rows


def code_rows(vectors: Tensor, base: Tensor, generator: torch.Generator) -> Tensor:
    """Start values fp32 [N, H] for the rows of one codebook: near where their code vectors are near.

    A seeded random projection keeps the distances between code vectors (Johnson-Lindenstrauss), so codes that sound
    or look alike start alike and what is learned of one helps its neighbours. A little noise of their own is added,
    and the rows are scaled to the median norm of the base.
    vectors: [N, D], centres of the codebook; base: [V0, H], the rows in use.
    """
    centred = vectors.float() - vectors.float().mean(0)
    width = base.shape[1]
    projection = torch.randn(centred.shape[1], width, generator=generator)
    drawn = _unit_spread(centred @ projection)
    drawn = _unit_spread(drawn + CODE_NOISE * torch.randn(drawn.shape, generator=generator))
    norm = base.float().norm(dim=1).median().cpu()
    return drawn * (norm / drawn.norm(dim=1).median().clamp_min(1e-12))


def _unit_spread(rows: Tensor) -> Tensor:
    return rows / rows.std().clamp_min(1e-12)
