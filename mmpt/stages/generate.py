"""Stage generate: golden sets at step 0 and at the end, decoded to files, for gates B4, C1 and E1.

Profile keys it reads: generate, codecs.audio.clip_seconds, evaluate.bootstrap.
"""

from __future__ import annotations

from typing import Any

import torch

from mmpt.evaluate import emission, outputs
from mmpt.evaluate import endings as end
from mmpt.evaluate.checkpoint import digest
from mmpt.evaluate.generated_files import file_metrics
from mmpt.evaluate.generating import RANDOM, Generating
from mmpt.evaluate.golden import Decoder
from mmpt.evaluate.ground_truth import encoder_of, ground_truth_metrics, has_media, load_medium
from mmpt.evaluate.prompt_losses import SCORED, emitting, write_prompt_ablation
from mmpt.evaluate.sampled_outputs import Filters, sampled_draws, sampling_metrics
from mmpt.evaluate.sets import Codecs
from mmpt.model.plain import PlainLM
from mmpt.store.canonical import write_json
from mmpt.store.digests import sha256_file
from mmpt.store.evidence import Metric, write_evidence
from mmpt.store.jsonl import write_jsonl
from mmpt.store.shares import share
from mmpt.store.stage import StageContext
from mmpt.store.tasks import EMIT_TASKS, MODALITY_OF
from mmpt.tokens import TokenSpace


def generate(ctx: StageContext) -> None:
    """Golden outputs at step 0 and at the end, greedy and sampled, as files; B4, C1. Resumes by piece.

    Beside them the losses after own, swapped and empty prompts, that stage ablation judges: qual/step_<k> holds all
    that the specification puts there.
    """
    ctx.spread(generate_part)
    work, codecs = Generating(ctx), Codecs.open(ctx.inputs["codecs"], ctx.device)
    work.write(work.pieces)
    prompted = emitting(ctx, work.trained)
    prompted.write(prompted.pieces)
    trained, sets, setting = work.trained, work.sets, work.setting
    decoder = Decoder(work.workshop.space, codecs, work.workshop.tokenizer)
    folders = {step: ctx.out / "qual" / f"step_{step}" for step in (trained.initial, trained.final)}
    reconstructions = emission.write_reconstructions(decoder, sets, setting, folders[trained.final])
    written, summaries = [], []
    for step, folder in folders.items():
        write_prompt_ablation(ctx, prompted.of(f"step_{step}"), step, folder)
        rows = emission.write_step(work.outputs(f"step_{step}"), decoder, sets, setting, step, folder)
        written.append(emission.Written(step, folder, rows))
        summaries += emission.summaries_of(folder)
    emission.write_shown(decoder, sets, _loader(ctx, codecs, work.workshop.space), setting, written[-1].folder)
    emission.write_inspect(sets, written[-1].rows, written[-1].folder)
    _write_endings(ctx, work, decoder)
    control = emission.random_control(work.outputs(RANDOM), decoder, sets, setting)
    write_json(ctx.out / "qual" / "random_weights.json", {"summaries": control})
    scored, drawn = _score_outputs(ctx, work, written[-1])
    write_jsonl(written[-1].folder / SCORED, [row for rows in scored.values() for row in rows])
    judged = [*outputs.argmax_metrics(scored), *drawn]
    _write_emission_evidence(ctx, decoder, sets, trained, written, reconstructions, summaries, control, judged)


def _loader(ctx: StageContext, codecs: Codecs, space: TokenSpace) -> emission.Load | None:
    """(task, record) -> the record's medium; None in a run without media."""
    if not has_media(ctx):
        return None
    return lambda task, record: load_medium(encoder_of(ctx, codecs, space, MODALITY_OF[task]), record)


def _write_endings(ctx: StageContext, work: Generating, decoder: Decoder) -> None:
    """E1: sounds of free length of the last checkpoint, as rows and files, and how they end."""
    final = work.trained.final
    folder = ctx.out / "qual" / f"step_{final}" / end.FOLDER
    rows = end.ending_rows(work.endings(), decoder, final, folder)
    metrics: list[Metric] = []
    if rows:
        write_jsonl(folder / f"step_{final}_learned_end_t2a.jsonl", rows)
        metrics = end.ending_metrics(rows, decoder.codecs.audio.frame_rate)
    samples = [
        {"path": f"qual/step_{final}/{end.FOLDER}/{row['path']}", "caption": row["caption"], "id": row["id"]}
        for row in rows
        if row["path"]
    ][:8]
    subject = {"final": digest(work.trained.path(final))}
    write_evidence(ctx.out, "E1", metrics, subject=subject, samples=samples)


def generate_part(ctx: StageContext, rank: int, world: int) -> None:
    """Worker ``rank`` of ``world`` decodes its share of the golden outputs into ``ctx.work``."""
    work = Generating(ctx)
    work.write([work.pieces[place] for place in share(work.sizes(), rank, world)])
    prompted = emitting(ctx, work.trained)
    prompted.write(prompted.mine(world - 1 - rank, world))  # the last worker has the fewest outputs


def _score_outputs(
    ctx: StageContext, work: Generating, last: emission.Written
) -> tuple[dict[str, list[dict[str, Any]]], list[Metric]]:
    """What the independent scorer says of the last checkpoint: rows of the greedy outputs by task, and C1's metrics of
    the sampled ones.
    """
    dtype, workshop, setting = getattr(torch, ctx.dtype), work.workshop, work.setting
    checkpoint = work.trained.path(last.step)
    model = PlainLM.open(ctx.inputs["base"] / "model", checkpoint, workshop.space, device=ctx.device, dtype=dtype)
    filters = Filters(top_k=setting.top_k, top_p=setting.top_p)
    scored: dict[str, Any] = {}
    drawn: list[Metric] = []
    for task, records in work.sets.items():
        ctx.progress(len(scored), len(work.sets), f"scoring {task}")
        asked = outputs.Asked.of(records, ctx.inputs["shards"], workshop.tokenizer, workshop.space)
        guidance = setting.guidance if task in EMIT_TASKS else 1.0
        scored[task] = outputs.scored_rows(model, workshop.space, asked, last.rows[task, "greedy"], dtype, guidance)
        sampled = last.rows[task, "sampled"]
        found = sampled_draws(model, workshop.space, asked, sampled, ctx.seed, filters, dtype, guidance)
        drawn += sampling_metrics(task, found)
    return scored, drawn


def _write_emission_evidence(ctx, decoder, sets, trained, written, reconstructions, summaries, control, judged) -> None:
    subject = {"initial": digest(trained.path(trained.initial)), "final": digest(trained.path(trained.final))}
    samples = [
        {
            "path": f"qual/step_{one.step}/{emission.FOLDER[decoding]}/{row['path']}".replace("/./", "/"),
            "caption": row["caption"],
            "id": row["id"],
            "decoding": decoding,
            "sha256": sha256_file(one.folder / emission.FOLDER[decoding] / row["path"]),
        }
        for one in written[-1:]
        for (task, decoding), rows in one.rows.items()
        if task in EMIT_TASKS
        for row in rows[:8]
        if row["path"]
    ]
    write_evidence(
        ctx.out,
        "B4",
        [
            *emission.artifact_metrics(decoder, written, reconstructions),
            *ground_truth_metrics(ctx, decoder.codecs, decoder.space, sets, written[-1].folder),
            *file_metrics(decoder.space, decoder.codecs, written[-1].folder, written[-1].step, ctx.seed),
        ],
        subject=subject,
        samples=samples,
    )
    controls = [
        {
            "name": f"random weights {one['task']} {one['decoding']}",
            "value": one["decoded"] / one["total"],
            "expected": 1.0,
            "n": one["total"],
            "legal_mass": one["legal_mass"],
        }
        for one in control
    ]
    expected = 2 * len(emission.FOLDER) + len(emission.FOLDER)
    write_evidence(
        ctx.out,
        "C1",
        [*emission.decode_metrics(sets, [*summaries, *control], expected), *judged],
        subject=subject,
        controls=controls,
    )
