"""Stage token_space: tokenizer, and which id means what. Profile keys it reads: token_space, text, base, codecs."""

from __future__ import annotations

from mmpt.shards.token_space import write_token_space
from mmpt.store.stage import StageContext


def token_space(ctx: StageContext) -> None:
    """Writes tokenizer/, token_space.json, its digest and the texts."""
    write_token_space(ctx)
