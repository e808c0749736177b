"""The evaluation stages: each body reads its inputs, calls the measures beside it and writes evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mmpt.evaluate import ablation as abl
from mmpt.evaluate import caption_reading as reading
from mmpt.evaluate import emission, outputs
from mmpt.evaluate import endings as end
from mmpt.evaluate import preflight as pre
from mmpt.evaluate import published_scores as pub
from mmpt.evaluate import scores as sco
from mmpt.evaluate import text as txt
from mmpt.evaluate import trend as tre
from mmpt.evaluate.ablating import Ablating
from mmpt.evaluate.alignment import alignment_metrics
from mmpt.evaluate.census import census_metrics
from mmpt.evaluate.checkpoint import EvalContext, Trained, digest
from mmpt.evaluate.generated_files import file_metrics
from mmpt.evaluate.generating import RANDOM, Generating
from mmpt.evaluate.golden import EMIT, Decoder
from mmpt.evaluate.ground_truth import encoder_of, ground_truth_metrics, has_media, load_medium
from mmpt.evaluate.packed import packed_metrics
from mmpt.evaluate.resume import check_resume
from mmpt.evaluate.sampled_outputs import Filters, sampled_draws, sampling_metrics
from mmpt.evaluate.sets import Codecs, Record, ablation_sets
from mmpt.evaluate.trainable import check_trainable
from mmpt.model.adapter import WEIGHTS
from mmpt.model.plain import PlainLM
from mmpt.shards.shard_set import MODALITIES, SPLITS, TASK_MODALITY, ShardSet
from mmpt.shards.text_set import encode_lines
from mmpt.store.canonical import write_json
from mmpt.store.digests import Manifest, sha256_file
from mmpt.store.evidence import Metric, write_evidence
from mmpt.store.jsonl import read_jsonl, write_jsonl
from mmpt.store.shares import share
from mmpt.store.stage import StageContext
from mmpt.store.tensors import load_tensors
from mmpt.tokens import TokenSpace
from mmpt.train.draws import DRAWS, draw_metrics
from mmpt.train.stages import prepare_train

READ = ("a2t", "i2t")
SCORED = "scored_outputs.jsonl"
LOSSES = "ablation_losses.jsonl"


def warmup_check(ctx: StageContext) -> None:
    """W1: after the warm-up, does a swapped medium make a caption less likely."""
    found = _read_ablations(ctx)["warmup"]
    _write_read_gap(ctx, "read_gap.json", {"warmup": found})
    metrics = [metric for one in found for metric in _gaps(ctx, one)]
    drawn = ctx.inputs["warmup"] / DRAWS
    if drawn.is_file():  # imported rows come without; the policy knows by the profile whether they may
        metrics += draw_metrics(drawn, ctx.inputs["split"] / "split.jsonl")
    checkpoint = ctx.inputs["warmup"] / "checkpoint"
    stored = load_tensors(checkpoint / WEIGHTS, "torch")
    trained = any(bool(value.any()) for key, value in stored.items() if ".lora_B." in key)  # it starts at zero
    notes = ["the warm-up trained LoRA with the new rows (warmup.lora)"] if trained else []
    write_evidence(ctx.out, "W1", metrics, subject={"warmup": digest(checkpoint)}, notes=notes)


def read_regression(ctx: StageContext) -> None:
    """R1: the same measure after stage 4, beside its value after the warm-up, on the same items."""
    trained = Trained.of(ctx.inputs["train"])
    measured = _read_ablations(ctx)
    before, after = measured["warmup"], measured[f"step_{trained.final}"]
    _write_read_gap(ctx, "read_regression.json", measured)
    metrics = [metric for one in after for metric in _gaps(ctx, one)]
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
        if task in READ:
            below = folder / "qual" / f"step_{trained.final}"
            made = read_jsonl(below / f"step_{trained.final}_golden_{task}.jsonl")
            train = ShardSet.open(ctx.inputs["shards"], TASK_MODALITY[task], "train")
            blind = reading.blind_caption([record["caption"] for record in train.records])
            gains = reading.word_gains(made, blind, resamples, ctx.seed)
            metrics += [*outputs.own_prompt_metrics(rows, resamples, ctx.seed), *reading.gain_metrics(gains, task)]
    return metrics


def _reading(ctx: StageContext) -> Ablating:
    """The read tasks after the warm-up, and after stage 4 where that is an input."""
    checkpoints = {"warmup": ctx.inputs["warmup"] / "checkpoint"}
    if "train" in ctx.inputs:
        trained = Trained.of(ctx.inputs["train"])
        checkpoints[f"step_{trained.final}"] = trained.path(trained.final)
    return Ablating(ctx, READ, checkpoints)


def _read_ablations(ctx: StageContext) -> dict[str, list[abl.Ablation]]:
    ctx.spread(read_part)
    reading_pieces = _reading(ctx)
    reading_pieces.write(reading_pieces.pieces)
    return {name: list(reading_pieces.of(name).values()) for name in reading_pieces.checkpoints}


def read_part(ctx: StageContext, rank: int, world: int) -> None:
    """Worker ``rank`` of ``world`` measures its share of the read tasks."""
    work = _reading(ctx)
    work.write(work.mine(rank, world))


def _gaps(ctx: StageContext, one: abl.Ablation) -> list[Metric]:
    resamples = ctx.profile["evaluate.bootstrap"]
    groups = abl.gap_interval(one, one.swapped, resamples, ctx.seed).groups_metric(one.task)
    return [*abl.gap_metrics(one, resamples, ctx.seed), groups]


def _write_read_gap(ctx: StageContext, name: str, measured: dict[str, list[abl.Ablation]]) -> None:
    resamples = ctx.profile["evaluate.bootstrap"]
    write_json(
        ctx.out / name,
        {
            checkpoint: {one.task: abl.report(one, resamples, ctx.seed) for one in found}
            for checkpoint, found in measured.items()
        },
    )


def _bar(ctx: StageContext, text: str):
    return lambda done, total: ctx.progress(done, total, text)


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
        workshop.space, inputs["shards"], inputs["examples"], inputs["token_space"], _bar(ctx, "sequences")
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


def trend(ctx: StageContext) -> None:
    """Small golden sets of every saved step: taken from the cache, or computed."""
    watch, trained = tre.TrendEvaluator.of(ctx), Trained.of(ctx.inputs["train"])
    rows = []
    for done, step in enumerate(trained.saved):
        ctx.progress(done, len(trained.saved), f"step {step}")
        rows.append(tre.collect(tre.evaluated(watch, step, trained.path(step)), ctx.out))
    write_jsonl(ctx.out / "trend.jsonl", rows)


def generate(ctx: StageContext) -> None:
    """Golden outputs at step 0 and at the end, greedy and sampled, as files; B4, C1. Resumes by piece.

    Beside them the losses after own, swapped and empty prompts, that stage ablation judges: qual/step_<k> holds all
    that the specification puts there.
    """
    ctx.spread(generate_part)
    work, codecs = Generating(ctx), Codecs.open(ctx.inputs["codecs"], ctx.device)
    work.write(work.pieces)
    prompted = _emitting(ctx, work.trained)
    prompted.write(prompted.pieces)
    trained, sets, setting = work.trained, work.sets, work.setting
    decoder = Decoder(work.workshop.space, codecs, work.workshop.tokenizer)
    folders = {step: ctx.out / "qual" / f"step_{step}" for step in (trained.initial, trained.final)}
    references = emission.write_references(decoder, sets, setting, folders[trained.final])
    written, summaries = [], []
    for step, folder in folders.items():
        _write_prompt_ablation(ctx, prompted.of(f"step_{step}"), step, folder)
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
    _write_emission_evidence(ctx, decoder, sets, trained, written, references, summaries, control, judged)


def _loader(ctx: StageContext, codecs: Codecs, space: TokenSpace) -> emission.Load | None:
    """(task, record) -> the record's medium; None in a run without media."""
    if not has_media(ctx):
        return None
    return lambda task, record: load_medium(encoder_of(ctx, codecs, space, TASK_MODALITY[task]), record)


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
    prompted = _emitting(ctx, work.trained)
    prompted.write(prompted.mine(world - 1 - rank, world))  # the last worker has the fewest outputs


def _emitting(ctx: StageContext, trained: Trained) -> Ablating:
    """The emit tasks at step 0 and at the end."""
    checkpoints = {f"step_{step}": trained.path(step) for step in (trained.initial, trained.final)}
    return Ablating(ctx, EMIT, checkpoints)


def _write_prompt_ablation(ctx: StageContext, found: dict[str, abl.Ablation], step: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    resamples = ctx.profile["evaluate.bootstrap"]
    report = {task: abl.report(one, resamples, ctx.seed) for task, one in found.items()}
    write_json(folder / "prompt_ablation.json", report)
    write_jsonl(folder / LOSSES, [row for one in found.values() for row in one.rows(step)])


def _prompt_ablation(generate: Path, sets: dict[str, list[Record]], step: int) -> dict[str, abl.Ablation]:
    """What `_write_prompt_ablation` wrote, by task."""
    rows = read_jsonl(generate / "qual" / f"step_{step}" / LOSSES)
    return {
        task: abl.Ablation.of_rows(records, [row for row in rows if row["task"] == task])
        for task, records in sets.items()
    }


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
        guidance = setting.guidance if task in EMIT else 1.0
        scored[task] = outputs.scored_rows(model, workshop.space, asked, last.rows[task, "greedy"], dtype, guidance)
        sampled = last.rows[task, "sampled"]
        found = sampled_draws(model, workshop.space, asked, sampled, ctx.seed, filters, dtype, guidance)
        drawn += sampling_metrics(task, found)
    return scored, drawn


def scored_outputs(generate: Path, step: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of scored_outputs.jsonl of stage generate by task."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in read_jsonl(generate / "qual" / f"step_{step}" / SCORED):
        rows.setdefault(row["task"], []).append(row)
    return rows


def _write_emission_evidence(ctx, decoder, sets, trained, written, references, summaries, control, judged) -> None:
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
        if task in EMIT
        for row in rows[:8]
        if row["path"]
    ]
    write_evidence(
        ctx.out,
        "B4",
        [
            *emission.artifact_metrics(decoder, written, references),
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


def ablation(ctx: StageContext) -> None:
    """B3 at the end of training, C2 against step 0: does the prompt decide what comes out. L1: each position predicts
    its own token, and decoding steps predict as teacher forcing does.
    """
    workshop, trained = EvalContext.of(ctx), Trained.of(ctx.inputs["train"])
    resamples, every = ctx.profile["evaluate.bootstrap"], ablation_sets(ctx.inputs["golden"])
    sets = {task: records for task, records in every.items() if task in EMIT}
    with workshop.opened(trained.path(trained.final)) as model:
        _write_alignment(ctx, model, workshop.space, every, trained.path(trained.final))
    first, last = (_prompt_ablation(ctx.inputs["generate"], sets, step) for step in (trained.initial, trained.final))
    asked = {one[key] for records in sets.values() for one in records for key in ("id", "swap_id")}
    shown = {
        record["id"]: record
        for modality in MODALITIES
        for record in ShardSet.open(ctx.inputs["shards"], modality, "test").records
        if record["id"] in asked
    }
    metrics = [metric for task in sets for metric in (*_gaps(ctx, last[task]), *abl.swap_metrics(sets[task], shown))]
    for task, rows in scored_outputs(ctx.inputs["generate"], trained.final).items():
        if task in EMIT:
            metrics += outputs.own_prompt_metrics(rows, resamples, ctx.seed)
            metrics += outputs.read_back_metrics(rows, resamples, ctx.seed)
    subject = {
        "initial": digest(trained.path(trained.initial)),
        "final": digest(trained.path(trained.final)),
        "golden": _set_digest(ctx.inputs["golden"]),
    }
    controls = [
        {
            "name": f"step {trained.initial} {metric.slice} {metric.name}",
            "value": metric.value,
            "ci_low": metric.ci_low,
            "ci_high": metric.ci_high,
            "n": metric.n,
        }
        for task in sets
        for metric in abl.gap_metrics(first[task], resamples, ctx.seed)
    ]
    write_evidence(ctx.out, "B3", metrics, subject=subject, controls=controls)
    metrics = []
    for task in sets:
        swapped, empty = (
            abl.growth(last[task], first[task], resamples, ctx.seed, against) for against in ("swapped", "empty")
        )
        metrics += [
            swapped.metric("gap_growth_nats", slice=task),
            empty.metric("empty_gap_growth_nats", slice=task),
            swapped.groups_metric(task),
        ]
    write_evidence(ctx.out, "C2", metrics, subject=subject)


def _write_alignment(
    ctx: StageContext, model: Any, space: TokenSpace, sets: dict[str, list[Record]], checkpoint: Path
) -> None:
    """L1: alignment.json and evidence."""
    metrics, losses = alignment_metrics(
        model,
        space,
        sets,
        ctx.inputs["shards"],
        resamples=ctx.profile["evaluate.bootstrap"],
        seed=ctx.seed,
        progress=_bar(ctx, "alignment"),
    )
    write_json(ctx.out / "alignment.json", losses)
    write_evidence(ctx.out, "L1", metrics, subject={"final": digest(checkpoint)})


def _set_digest(folder: Path) -> str:
    return Manifest.of(folder).digest


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
    before = txt.chunk_losses(base, pieces, (0, space.text_vocab_size))
    said_before = txt.continuations(base, space, workshop.tokenizer, prompts)
    del base
    with workshop.opened(trained.path(trained.final)) as model:
        head_rows = sum(len(rows) for rows in model.head())
        after = txt.chunk_losses(model, pieces, whole)
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


def resume_check(ctx: StageContext) -> None:
    """C4: N + M steps at once against N, save, a new process, M; and checkpoints that must be refused."""
    metrics, details = check_resume(ctx)
    write_json(ctx.out / "resume_check.json", details)
    write_evidence(ctx.out, "C4", metrics, subject={"warmup": digest(ctx.inputs["warmup"] / "checkpoint")})


def scores(ctx: StageContext) -> None:
    """Q1, Q2, T1 on the golden outputs as they lie on disk."""
    workshop, trained = EvalContext.of(ctx), Trained.of(ctx.inputs["train"])
    look = sco.Look.of(ctx, workshop, trained)
    metrics, controls, attributes = sco.oracle_metrics(look)
    captions, step_zero, read, wrong = sco.caption_metrics(look)
    subject = {"final": digest(trained.path(trained.final)), "codecs": _set_digest(ctx.inputs["codecs"])}
    notes = [] if metrics else ["no golden record has attributes: there is nothing that an oracle could read back"]
    write_evidence(
        ctx.out,
        "Q1",
        [*metrics, *captions],
        subject=subject,
        samples=wrong,
        controls=[*controls, *step_zero],
        notes=notes,
    )
    metrics, free = sco.free_metrics(look)
    write_evidence(ctx.out, "Q2", metrics, subject=subject)
    metrics, nearest = sco.memory_metrics(look, ctx, workshop)
    judged, judges = pub.judged_metrics(look, ctx)
    published = [*pub.caption_metrics(look, ctx.inputs["shards"]), *judged]
    write_evidence(ctx.out, "T1", [*metrics, *published], subject={**subject, **judges})
    result: dict[str, Any] = {
        "attributes": {**attributes, **read},
        "free_running": free,
        "memory": nearest,
        "published": {f"{metric.slice} {metric.name}": metric.value for metric in published},
        "judges": judges,
    }
    write_json(ctx.out / "scores.json", result)
