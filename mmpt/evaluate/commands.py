"""`doit sample` and `doit evaluate`: outputs and measures of a finished run's checkpoints, on request."""

from __future__ import annotations

import math
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.codecs.media import load_clip, load_image, summarise_audio
from mmpt.codecs.protocol import encode_rate, frames_of
from mmpt.evaluate import ablation as abl
from mmpt.evaluate.checkpoint import EvalContext, Trained, step_of
from mmpt.evaluate.emission import write_step
from mmpt.evaluate.endings import LearnedEnd
from mmpt.evaluate.golden import Decoder, DecodingSettings, generate_golden
from mmpt.evaluate.media import write_png, write_wav
from mmpt.evaluate.sets import Codecs, ablation_sets, decode_audio, decode_image, golden_sets
from mmpt.generate import generate
from mmpt.launch.process_setup import set_up_torch
from mmpt.model.adapter import WEIGHTS
from mmpt.ops import adopt
from mmpt.profile import Profile
from mmpt.store.atomic import publish_folder
from mmpt.store.canonical import write_json
from mmpt.store.errors import UserError
from mmpt.store.new_folder import new_folder, staging_folder
from mmpt.store.plain_text import plain_line
from mmpt.store.schema import nearest
from mmpt.store.tasks import EMIT_TASKS, TASKS
from mmpt.tokens import Grammar, TokenSpace, grammar, prompt

SOURCE = {"t2a": "prompt", "t2i": "prompt", "a2t": "audio", "i2t": "image"}
SUFFIX = {"t2a": ".wav", "t2i": ".png"}
# What a setting may be, as profile.schema.json says it of section `generate`.
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: value >= 0, "a number from 0 up"),
    "top_k": (lambda value: value >= 0, "0, for all, or a number from 1 up"),
    "top_p": (lambda value: 0 < value <= 1, "a number above 0, at most 1"),
    "guidance": (lambda value: value >= 1, "a number from 1 up"),
    "seed": (lambda value: 0 <= value < 2**53, "a number from 0 up, below 2**53"),
}


def sample(root: Path, profile: Profile, options: Namespace) -> int:
    """One output for one prompt, sound or picture; returns the exit code 0.

    `options`: task, prompt | audio | image, out, checkpoint, temperature, top_k, top_p, guidance, seed, learned_end.
    Raises UserError: an argument that does not go with the task, a missing file or checkpoint, a prompt that
    is too long.
    """
    _check_sample(options)
    workshop = _workshop(root, profile)
    codecs = Codecs.open(_data(root, "codecs"), workshop.device)
    checkpoint = _checkpoint(root, options.checkpoint)
    given = _prompt(workshop, codecs, profile, options)
    learned = getattr(options, "learned_end", False)
    wanted = _grammar(workshop.space, codecs, profile, options.task, learned)
    chosen = {name: getattr(options, name, None) for name in ("temperature", "top_k", "top_p", "guidance")}
    how = {name: profile.data["generate"][name] if value is None else value for name, value in chosen.items()}
    guided = options.task in EMIT_TASKS and how["guidance"] != 1.0
    with workshop.opened(checkpoint) as model:
        output = generate(
            model,
            [given],
            [wanted],
            temperature=how["temperature"],
            top_k=how["top_k"],
            top_p=how["top_p"],
            seeds=[options.seed],
            guidance=how["guidance"] if guided else 1.0,
            measure_mass=False,
            empty_prompts=[prompt(workshop.space, options.task, [])] if guided else (),
        )[0]
    if learned and not output.ended:
        print("the sound did not end: it is cut at generate.learned_end.max_seconds", file=sys.stderr)
    if options.task in EMIT_TASKS:
        _write(options, codecs, workshop.space, output.ids)
    print(
        options.out
        if options.task in EMIT_TASKS
        else plain_line(workshop.tokenizer.decode(output.ids.tolist()).strip())
    )
    return 0


def _write(options: Namespace, codecs: Codecs, space: TokenSpace, ids: np.ndarray) -> None:
    """The decoded file, in its place whole or not at all."""
    path = Path(options.out)
    staging = path.with_name(f".{path.name}.tmp")
    try:
        if options.task == "t2a":
            write_wav(staging, decode_audio(codecs, space, ids), codecs.audio.sample_rate)
        else:
            write_png(staging, decode_image(codecs, space, ids, options.seed))
        os.replace(staging, path)
    except (OSError, RuntimeError) as error:  # soundfile's own error is a RuntimeError
        staging.unlink(missing_ok=True)
        said = (getattr(error, "strerror", None) or str(error)).replace(staging.name, path.name)
        raise UserError("cannot be written", where=f"--out {path}", found=said) from None


def _check_sample(options: Namespace) -> None:
    if getattr(options, "learned_end", False) and options.task != "t2a":
        raise UserError(
            "only sounds have an end of their own",
            where="--learned-end",
            found=f"task {options.task}",
            expected="task t2a",
        )
    if options.task not in TASKS:
        raise UserError(
            "unknown task",
            where="--task",
            found=options.task,
            expected=", ".join(TASKS),
            fix=nearest(options.task, TASKS),
        )
    needed = SOURCE[options.task]
    if getattr(options, needed) is None:
        raise UserError(f"task {options.task} needs --{needed}", found="nothing")
    for other in {*SOURCE.values()} - {needed}:
        if getattr(options, other) is not None:
            raise UserError(f"task {options.task} takes --{needed}", where=f"--{other}", found=getattr(options, other))
    for name, (allowed, expected) in RANGES.items():
        value = getattr(options, name, None)
        if value is not None and not (math.isfinite(value) and allowed(value)):
            raise UserError("out of range", where=f"--{name.replace('_', '-')}", found=value, expected=expected)
    suffix = SUFFIX.get(options.task)
    if suffix and Path(options.out or "").suffix.lower() != suffix:
        raise UserError(
            f"task {options.task} writes a {suffix} file",
            where="--out",
            found=options.out or "nothing",
            expected=f"a name that ends in {suffix}",
        )
    if not suffix and options.out:
        raise UserError(f"task {options.task} prints text and writes no file", where="--out", found=options.out)


def _prompt(workshop: EvalContext, codecs: Codecs, profile: Profile, options: Namespace) -> np.ndarray:
    space, limit = workshop.space, profile.data["examples"].get("max_prompt_tokens")
    if options.task in EMIT_TASKS:
        # Blanks as in the captions of training.
        words = " ".join(options.prompt.split())
        ids = workshop.tokenizer.encode(words, add_special_tokens=False).ids
        if limit is not None and len(ids) > limit:
            raise UserError(
                "the prompt is too long",
                where="--prompt",
                found=f"{len(ids)} tokens",
                expected=f"at most examples.max_prompt_tokens = {limit}",
            )
        return prompt(space, options.task, ids)
    if options.task == "a2t":
        codec = _present(codecs.audio, "audio")
        path, seconds = Path(options.audio), profile.data["codecs"]["audio"]["clip_seconds"]
        about = summarise_audio(path)  # reads all of it, so that a damaged end is reported too
        wave, cut = load_clip(path, encode_rate(codec), codec.channels, seconds)
        if cut:
            print(
                f"{options.audio}: the model hears the first {seconds:g} s of "
                f"{about.samples / about.rate:.1f} s (codecs.audio.clip_seconds)",
                file=sys.stderr,
            )
        return prompt(space, "a2t", space.audio_to_global(codec.encode([wave])[0].codes))
    codec = _present(codecs.image, "image")
    return prompt(space, "i2t", space.image_to_global(codec.encode([load_image(Path(options.image))])[0]))


def _grammar(space: TokenSpace, codecs: Codecs, profile: Profile, task: str, learned_end: bool) -> Grammar:
    if task == "t2a":
        codec, seconds = _present(codecs.audio, "audio"), profile.data["codecs"]["audio"]["clip_seconds"]
        if learned_end:
            return grammar(space, task, frames=LearnedEnd.of(profile.data["generate"], codec, seconds).frames)
        return grammar(space, task, frames=frames_of(codec, seconds))
    if task == "t2i":
        return grammar(space, task, tokens_per_image=_present(codecs.image, "image").tokens_per_image)
    return grammar(space, task, text=(1, profile.data["generate"]["max_text_tokens"]))


def _present(codec: Any, modality: str) -> Any:
    if codec is None:
        raise UserError(f"this run has no {modality} codec", where=f"codecs.{modality}", fix="add it to the profile")
    return codec


def evaluate(root: Path, profile: Profile, options: Namespace) -> int:
    """Golden generation of any checkpoint, and the ablation where a task has one; prints a table, returns 0.

    `options`: checkpoint (step_<k>, final, or a folder), tasks (comma-separated), out (new folder or None).
    Raises UserError: an unknown task or checkpoint, tasks of a modality without a codec, an `out` that is not empty.
    """
    tasks = _tasks(options.tasks)
    checkpoint = _checkpoint(root, options.checkpoint)
    out = new_folder(options.out, "--out", root) if options.out else root / "evaluate" / checkpoint.name
    workshop = _workshop(root, profile)
    codecs = Codecs.open(_data(root, "codecs"), workshop.device)
    decoder = Decoder(workshop.space, codecs, workshop.tokenizer)
    there = golden_sets(_data(root, "golden"))
    golden = _only(tasks, there)
    swapped = _only(tasks, ablation_sets(_data(root, "golden")))
    if not golden:
        raise UserError(
            "this run has no golden items of the tasks asked for",
            where="--tasks",
            found=", ".join(tasks),
            expected=", ".join(there),
        )
    section = profile.data["generate"]
    setting = DecodingSettings(
        workshop.seed,
        **{k: section[k] for k in ("top_k", "top_p", "guidance", "batch_size", "max_text_tokens")},
    )
    step = step_of(checkpoint.name) if checkpoint.name.startswith("step_") else 0
    staging = staging_folder(out)
    with workshop.opened(checkpoint) as model:
        made = generate_golden(model, workshop.space, golden, setting)
        rows = write_step(made, decoder, golden, setting, step, staging)
        found = {task: abl.ablate(model, workshop.space, records) for task, records in swapped.items()}
    resamples = profile.data["evaluate"]["bootstrap"]
    report = {task: abl.report(one, resamples, workshop.seed) for task, one in found.items()}
    write_json(staging / "prompt_ablation.json", report)
    publish_folder(staging, out)
    for line in _table(rows, report):
        print(line)
    print(out)
    return 0


def _tasks(text: str) -> list[str]:
    tasks = [task.strip() for task in text.split(",") if task.strip()]
    for task in tasks or [""]:
        if task not in TASKS:
            raise UserError(
                "unknown task",
                where="--tasks",
                found=repr(task),
                expected=", ".join(TASKS),
                fix=nearest(task, TASKS),
            )
    return tasks


def _only(tasks: Sequence[str], sets: dict[str, list]) -> dict[str, list]:
    return {task: sets[task] for task in tasks if task in sets}


def _table(rows: dict, report: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for task, decoding in rows:
        made = rows[task, decoding]
        good = sum(not (row["decode_error"] or row["fault"]) for row in made)
        lines.append(
            f"{task}  {decoding:<8}  valid {good}/{len(made)}  "
            f"legal mass {np.mean([row['legal_mass'] for row in made]):.4f}"
        )
    for task, entry in report.items():
        for name in ("swapped", "empty"):
            if f"gap_{name}" in entry:
                gap = entry[f"gap_{name}"]
                lines.append(
                    f"{task}  {name:<8}  gap {gap['mean']:.4f} "
                    f"[{gap['ci_low']:.4f}, {gap['ci_high']:.4f}] nats per token, "
                    f"win rate {entry[f'win_rate_{name}']:.3f}, n {entry['n_examples']}"
                )
    return lines


def _workshop(root: Path, profile: Profile) -> EvalContext:
    runtime = profile.data["runtime"]
    set_up_torch(runtime["threads"], profile.data["seed"])
    adopt(_data(root, "extension"))
    return EvalContext.at(
        _data(root, "base"),
        _data(root, "token_space"),
        profile.data["seed"],
        runtime["device"],
        runtime["dtype"],
    )


def _checkpoint(root: Path, name: str) -> Path:
    for folder in (Path(name), Path(name) / "adapter"):  # the second in a folder that `doit export` wrote
        if (folder / WEIGHTS).is_file():
            return folder
    trained = Trained.of(_data(root, "train"))
    return trained.path(trained.final) if name == "final" else trained.named(name)


def _data(root: Path, stage: str) -> Path:
    folder = root / stage / "data"
    if not folder.is_dir():
        raise UserError(f"stage {stage} was not built yet", where=root.name, fix="run doit first")
    return folder
