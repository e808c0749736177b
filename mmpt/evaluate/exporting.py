"""The export of a finished training, written before it is released and judged by gate X1.

The staged folder is what `doit export` hands out. X1 asks, in each runtime that the profile lists, for the greedy ids
of the run's golden prompts: merged weights and grammar must give what the run gave. A first id that differs counts
unless the exported model prefers it by no more than its rounding. It asks the exported tokenizer for the ids that the
run recorded for its golden captions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmpt.codecs.protocol import frames_of
from mmpt.evaluate.checkpoint import EvalContext, Trained
from mmpt.evaluate.endings import FOLDER, LearnedEnd
from mmpt.evaluate.golden import generate_golden
from mmpt.evaluate.sets import Codecs, Record, record_prompt
from mmpt.evaluate.trend import setting_of
from mmpt.model.export import Lengths
from mmpt.model.runtimes import RUNTIMES, Asked, open_plain, preference
from mmpt.store.errors import UserError
from mmpt.store.evidence import Metric
from mmpt.store.jsonl import read_jsonl
from mmpt.store.stage import StageContext
from mmpt.store.tasks import EMIT_TASKS
from mmpt.tokens import TokenSpace
from mmpt.tokens.formats import LAYOUTS

SHOWN = 10  # items whose ids differ, in export.json


@dataclass(frozen=True)
class Expected:
    """A golden prompt, and the ids that the run gave it."""

    name: str
    asked: Asked
    ids: np.ndarray


def lengths_of(profile: Any, codecs: Codecs, space: TokenSpace) -> Lengths:
    """What grammar.json says of lengths: exact sounds are whole clips, which is what most of a corpus has.

    profile: dotted access to generate and codecs.audio.clip_seconds.
    """
    frames = learned = None
    if codecs.audio is not None:
        seconds = profile["codecs.audio.clip_seconds"]
        whole = frames_of(codecs.audio, seconds)
        frames = whole, whole
        if space.stream.open_ended:
            learned = LearnedEnd.of(profile["generate"], codecs.audio, seconds).frames
    return Lengths(
        text_tokens=(1, profile["generate"]["max_text_tokens"]),
        audio_frames=frames,
        image_tokens=codecs.image.tokens_per_image if codecs.image else None,
        audio_frames_learned_end=learned,
    )


def expected_outputs(
    ctx: StageContext, workshop: EvalContext, trained: Trained, sets: Mapping[str, Sequence[Record]]
) -> list[Expected]:
    """The run's greedy golden outputs, and those whose end the model chose.

    With guidance the run's outputs follow two prompts, which plain runtimes do not: then they are made anew without.
    """
    setting, folder = setting_of(ctx), ctx.inputs["generate"] / "qual" / f"step_{trained.final}"
    name, space = f"step_{trained.final}", workshop.space
    if setting.guidance == 1.0:
        ids = {task: [row["ids"] for row in read_jsonl(folder / f"{name}_golden_{task}.jsonl")] for task in sets}
    else:
        with workshop.opened(trained.path(trained.final)) as model:
            made = generate_golden(
                model, space, sets, replace(setting, guidance=1.0), decodings=("greedy",), free=False
            )
        ids = {task: [one.ids for one in made[task, "greedy"].golden] for task in sets}
    wanted = [
        Expected(f"{task} {record['id']}", Asked(task, record_prompt(space, record), _exact(record)), np.asarray(own))
        for task, records in sets.items()
        for record, own in zip(records, ids[task], strict=True)
    ]
    free = folder / FOLDER / f"{name}_learned_end_t2a.jsonl"
    if not free.is_file() or setting.guidance != 1.0:
        return wanted
    prompts = {record["id"]: record_prompt(space, record) for record in sets["t2a"]}
    frames = LearnedEnd.of(
        ctx.profile["generate"], Codecs.open(ctx.inputs["codecs"]).audio, ctx.profile["codecs.audio.clip_seconds"]
    ).frames
    return wanted + [
        Expected(f"t2a {row['id']}, learned end", Asked("t2a", prompts[row["id"]], frames), np.asarray(row["ids"]))
        for row in read_jsonl(free)
        if row["decoding"] == "greedy"
    ]


def _exact(record: Record) -> tuple[int, int] | None:
    return (int(record["n_frames"]),) * 2 if record["task"] == "t2a" else None


def compare(
    ctx: StageContext,
    runtime: str,
    dtype: torch.dtype,
    space: TokenSpace,
    wanted: Sequence[Expected],
    tolerance: float,
) -> tuple[list[Metric], dict[str, Any]]:
    """X1 for one runtime: how many golden prompts get other ids, and at how many of them by rounding alone."""
    folder = ctx.out / "export"
    given = RUNTIMES[runtime](folder, [one.asked for one in wanted], dtype, ctx.device)
    differing = [(one, ids) for one, ids in zip(wanted, given, strict=True) if not np.array_equal(one.ids, ids)]
    plain = open_plain(folder, dtype, ctx.device) if differing else None
    apart, ties = [], 0
    for one, ids in differing:
        place, own, other = first_difference(one, ids, space)
        lead = preference(plain, np.concatenate([one.asked.prompt, one.ids[:place]]), other, own)
        if abs(lead) <= tolerance:
            ties += 1
        else:
            apart.append({"item": one.name, "position": place, "run": own, "runtime": other, "lead": round(lead, 6)})
    n = len(wanted)
    metrics = [
        Metric("ids_differing", len(apart), n, "items", "lower", slice=runtime),
        Metric("rounding_ties", ties, n, "items", "lower", slice=runtime),
    ]
    return metrics, {"items": n, "rounding_ties": ties, "differing": len(apart), "first": apart[:SHOWN]}


def tokenizer_metrics(folder: Path, base: Path, sets: Mapping[str, Sequence[Record]]) -> list[Metric]:
    """X1: golden captions and prompts, and texts with a control token's name, of which the exported tokenizer makes
    other ids than the run.

    The run recorded the ids of its captions. They must come without special tokens, as the model card shows, and with
    them, where the base's own tokenizer may add what it always adds. Names of control tokens must be spelled.

    Args:
        folder: of the export. base: of the base's tokenizer.
    """
    tokenizer, (head, tail) = open_tokenizer(folder), added_by(open_tokenizer(base))
    asked = {  # a prompt may have lost its end, a caption not
        (record["caption"], tuple(record["prompt_ids" if task in EMIT_TASKS else "target_ids"]), task not in EMIT_TASKS)
        for task, records in sets.items()
        for record in records
    }
    wrong = 0
    for text, ids, whole in sorted(asked):
        plain, full = tokenizer.encode(text, add_special_tokens=False), tokenizer.encode(text)
        recorded = list(ids) if whole else [*ids, *plain[len(ids) :]]
        wrong += plain != recorded or full != [*head, *recorded, *tail]
    names = {one: token.content for one, token in tokenizer.added_tokens_decoder.items() if token.special}
    spelled = [tokenizer.encode(f"a {name} b", add_special_tokens=False) for name in names.values()]
    wrong += sum(not names.keys().isdisjoint(ids) for ids in spelled)
    return [Metric("texts_differing", wrong, len(asked) + len(names), "texts", "lower")]


def open_tokenizer(folder: Path) -> Any:
    """As plain transformers loads it."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if (folder / "tokenizer_config.json").is_file():
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))


def added_by(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before and after a text by itself.

    Raises:
        UserError: the text's own ids are others between them.
    """
    text, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    for first in range(len(whole) - len(text) + 1):
        if whole[first : first + len(text)] == text:
            return whole[:first], whole[first + len(text) :]
    raise UserError(
        "the tokenizer gives a text other ids where it adds its special tokens",
        where=f"tokenizer of the base, {type(tokenizer).__name__}",
        found=f"'a' is {text}, and {whole} with them",
        expected="the same ids between those that it adds",
        fix="choose a base whose tokenizer only adds tokens around a text",
    )


def first_difference(one: Expected, ids: np.ndarray, space: TokenSpace) -> tuple[int, int, int]:
    """(position in the payload, the run's id there, the runtime's), the end token after the last of either."""
    end = space.special(LAYOUTS[one.asked.task].end)
    own, other = np.append(one.ids, end), np.append(ids, end)
    shared = min(len(own), len(other))
    place = int(np.argmax(own[:shared] != other[:shared]))
    return place, int(own[place]), int(other[place])
