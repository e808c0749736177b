"""Stage shards: every medium as tokens. Profile keys it reads: shards."""

from __future__ import annotations

from mmpt.shards.tokenise import gather
from mmpt.shards.tokenising import EARLIER, Tokenising
from mmpt.store.canonical import write_json
from mmpt.store.shares import share
from mmpt.store.stage import StageContext


def shards(ctx: StageContext) -> None:
    """Encodes every record of the split: shards, errors.jsonl, stats.json. Resumes from ``ctx.work``.

    Media that shards in ``ctx.earlier`` hold are taken from there.
    """
    write_json(ctx.work / EARLIER, [str(folder) for folder in ctx.earlier])
    ctx.spread(shards_part, each=Tokenising)
    work = Tokenising(ctx)
    work.write(work.shards)
    gather(ctx, work.shards, work.space)


def shards_part(ctx: StageContext, rank: int, world: int) -> None:
    """Worker ``rank`` of ``world`` writes its share of the shards into ``ctx.work``."""
    work = Tokenising(ctx)
    work.write([work.shards[place] for place in share(work.sizes(), rank, world)])
