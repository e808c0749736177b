"""Stage text_regression: is the text model still the text model, for gate C3. Profile keys it reads:
evaluate.text_tokens, evaluate.bootstrap.
"""

from __future__ import annotations

from mmpt.evaluate import text as txt
from mmpt.evaluate.checkpoint import EvalContext, Trained, digest
from mmpt.shards.shard_set import ShardSet
from mmpt.shards.text_set import encode_lines
from mmpt.store.canonical import write_json
from mmpt.store.evidence import Metric, write_evidence
from mmpt.store.stage import StageContext
from mmpt.store.tasks import MODALITIES, SPLITS


def text_regression(ctx: StageContext) -> None:
    """C3: held-out text, final against base, each over its whole vocabulary; fixed prompts too."""
    workshop, trained, folder = EvalContext.of(ctx), Trained.of(ctx.inputs["train"]), ctx.inputs["token_space"]
    space, resamples = workshop.space, ctx.profile["evaluate.bootstrap"]
    heldout = encode_lines(folder / "text_heldout.txt", workshop.tokenizer, space)
    pieces, whole = txt.chunks(heldout, ctx.profile["evaluate.text_tokens"]), (0, space.vocab_size_total)
    prompts = (*txt.FIXED_PROMPTS, *txt.heldout_prompts(folder / "text_heldout.txt"))
    base = workshop.untrained()
    # The base is measured as it came: over its own rows. What the final model gives to new rows counts
    # against it.
    before = txt.chunk_losses(base, pieces, (0, space.text_vocab_size), ctx.bar("the base on held-out text"))
    said_before = txt.continuations(base, space, workshop.tokenizer, prompts)
    del base
    with workshop.opened(trained.path(trained.final)) as model:
        head_rows = sum(len(rows) for rows in model.head())
        after = txt.chunk_losses(model, pieces, whole, ctx.bar("the trained model on held-out text"))
        said_after = txt.continuations(model, space, workshop.tokenizer, prompts)
    unigram = txt.unigram_losses(
        encode_lines(folder / "text_train.txt", workshop.tokenizer, space), pieces, space.text_vocab_size
    )
    captions = (
        record["caption"]
        for modality in MODALITIES
        for split in SPLITS
        for record in ShardSet.open(ctx.inputs["shards"], modality, split).records
    )
    lines, trained_on = (
        (folder / name).read_text(encoding="utf-8").splitlines() for name in ("text_heldout.txt", "text_train.txt")
    )
    captioned, n_lines = txt.shared_lines(lines, captions)
    trained_lines, _ = txt.shared_lines(lines, trained_on)
    copied = txt.copied_lines(lines, trained_on)
    metrics = [
        txt.paired(after, before, resamples, ctx.seed).metric("nll_increase_nats", direction="lower"),
        txt.paired(before, unigram, resamples, ctx.seed).metric("base_minus_unigram_nats", direction="lower"),
        Metric("softmax_rows_missing", head_rows - (whole[1] - whole[0]), head_rows, "rows", "lower"),
        Metric("caption_lines_in_heldout", captioned, n_lines, "lines", "lower"),
        Metric("trained_share_of_heldout", trained_lines / max(1, n_lines), n_lines, "share", "lower"),
        Metric("copied_share_of_heldout", copied / max(1, n_lines), n_lines, "share", "lower"),
    ]
    write_json(
        ctx.out / "text_regression.json",
        {
            "tokens": int(after.size),
            "nll_base": float(before.mean()),
            "nll_final": float(after.mean()),
            "nll_unigram": float(unigram.mean()),
            "increase": metrics[0].to_json(),
            "prompts": [
                {"prompt": one.prompt, "before": one.text, "after": two.text}
                for one, two in zip(said_before, said_after, strict=True)
            ],
        },
    )
    write_evidence(ctx.out, "C3", metrics, subject={"final": digest(trained.path(trained.final))})
