"""Stage examples: prompt, target and label mask of the four tasks. Profile keys it reads: examples."""

from __future__ import annotations

from mmpt.shards.examples import build_examples
from mmpt.store.stage import StageContext


def examples(ctx: StageContext) -> None:
    """Decides what each task keeps: {task}-{split}.safetensors, drops.json."""
    build_examples(ctx)
