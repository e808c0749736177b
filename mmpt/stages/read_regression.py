"""Stage read_regression: does it still read after learning to emit, for gate R1. Profile keys it reads:
evaluate.bootstrap.
"""

from __future__ import annotations

from mmpt.evaluate import ablation as abl
from mmpt.evaluate import caption_reading as reading
from mmpt.evaluate import outputs
from mmpt.evaluate.checkpoint import Trained, digest
from mmpt.evaluate.prompt_losses import scored_outputs
from mmpt.evaluate.read_gap import gaps, read_ablations, write_read_gap
from mmpt.shards.shard_set import ShardSet
from mmpt.store.evidence import Metric, write_evidence
from mmpt.store.jsonl import read_jsonl
from mmpt.store.stage import StageContext
from mmpt.store.tasks import MODALITY_OF, READ_TASKS


def read_regression(ctx: StageContext) -> None:
    """R1: the same measure after stage 4, beside its value after the warm-up, on the same items."""
    trained = Trained.of(ctx.inputs["train"])
    measured = read_ablations(ctx)
    before, after = measured["warmup"], measured[f"step_{trained.final}"]
    write_read_gap(ctx, "read_regression.json", measured)
    metrics = [metric for one in after for metric in gaps(ctx, one)]
    for one in before:
        interval = abl.gap_interval(one, one.swapped, ctx.profile["evaluate.bootstrap"], ctx.seed)
        metrics.append(interval.metric("gap_after_warmup_nats", direction="none", slice=one.task))
    metrics += _free_running_captions(ctx, trained)
    write_evidence(ctx.out, "R1", metrics, subject={"checkpoint": digest(trained.path(trained.final))})


def _free_running_captions(ctx: StageContext, trained: Trained) -> list[Metric]:
    """Greedy captions: own medium against a swapped one by likelihood and by words, and against a blind caption."""
    resamples, folder = ctx.profile["evaluate.bootstrap"], ctx.inputs["generate"]
    metrics = []
    for task, rows in scored_outputs(folder, trained.final).items():
        if task in READ_TASKS:
            below = folder / "qual" / f"step_{trained.final}"
            made = read_jsonl(below / f"step_{trained.final}_golden_{task}.jsonl")
            train = ShardSet.open(ctx.inputs["shards"], MODALITY_OF[task], "train")
            blind = reading.blind_caption([record["caption"] for record in train.records])
            gains = reading.word_gains(made, blind, resamples, ctx.seed)
            metrics += [*outputs.own_prompt_metrics(rows, resamples, ctx.seed), *reading.gain_metrics(gains, task)]
    return metrics
