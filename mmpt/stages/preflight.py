"""Stage preflight: ids, trainable rows, sequences and decoding before the long run, for gates A1 to A4. Profile keys it
reads: train, lora, mixture, examples.max_seq_len.
"""

from __future__ import annotations

from mmpt.evaluate import preflight as pre
from mmpt.evaluate.census import census_metrics
from mmpt.evaluate.checkpoint import EvalContext, digest
from mmpt.evaluate.packed import packed_metrics
from mmpt.evaluate.sets import Codecs
from mmpt.evaluate.trainable import check_trainable
from mmpt.store.canonical import write_json
from mmpt.store.evidence import write_evidence
from mmpt.store.stage import StageContext
from mmpt.train.preparation import prepare_train


def preflight(ctx: StageContext) -> None:
    """A1 to A4: what must hold before the long run. Without one token space A2 to A4 have nothing to measure."""
    inputs, checkpoint = ctx.inputs, ctx.inputs["warmup"] / "checkpoint"
    metrics, spaces = pre.token_spaces(
        inputs["token_space"], inputs["shards"], inputs["examples"], checkpoint, inputs["base"]
    )
    subject = {"token_space": spaces["digest"], "checkpoint": digest(checkpoint)}
    write_evidence(ctx.out, "A1", metrics, subject=subject)
    (ctx.out / "decode").mkdir()
    if not pre.one_space(metrics):
        for gate in ("A2", "A3", "A4"):
            write_evidence(ctx.out, gate, [], subject=subject, notes=["not measured: see A1"])
        write_json(
            ctx.out / "preflight.json",
            {"token_space": spaces, "trainable": None, "sequences": {}, "decoded": []},
        )
        return
    workshop = EvalContext.of(ctx)
    prepared = prepare_train(ctx)
    packed = packed_metrics(prepared)
    metrics, trainable = check_trainable(prepared)
    del prepared
    write_evidence(ctx.out, "A2", metrics, subject=subject)
    metrics, sequences = pre.sequence_checks(
        workshop.space, inputs["shards"], inputs["examples"], inputs["token_space"], ctx.bar("sequences")
    )
    metrics += [*packed, *census_metrics(workshop.space, inputs["shards"])]
    write_evidence(ctx.out, "A3", metrics, subject=subject)
    codecs = Codecs.open(inputs["codecs"], ctx.device)
    metrics, samples = pre.decode_stored(workshop.space, inputs["shards"], codecs, ctx.out, ctx.seed)
    write_evidence(ctx.out, "A4", metrics, subject=subject, samples=samples)
    write_json(
        ctx.out / "preflight.json",
        {"token_space": spaces, "trainable": trainable, "sequences": sequences, "decoded": samples},
    )
