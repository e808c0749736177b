"""The examples stage: which records each task keeps, and with which text. Targets are never shortened.

Too long a sequence first loses the end of its *prompt* (t2a, t2i); where that does not suffice, or where the
text is the target (a2t, i2t), the record is dropped and counted.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mmpt.shards.shard_set import ShardSet
from mmpt.shards.text_set import encoded, open_tokenizer
from mmpt.store.canonical import write_json
from mmpt.store.errors import UserError
from mmpt.store.jsonl import iter_jsonl
from mmpt.store.stage import StageContext
from mmpt.store.tasks import EMIT_TASKS, MODALITIES, MODALITY_OF, SPLITS, TASKS
from mmpt.store.tensors import save_tensors
from mmpt.tokens.formats import OVERHEAD
from mmpt.tokens.space import TokenSpace, load

_CHUNK = 1 << 16  # captions copied at once
_TOLD = 1 << 10  # captions between two reports of how far it is


@dataclass(frozen=True)
class Selection:
    """What a task keeps of n records.

    kept: int64, indices into the records. text_lengths: int64, text tokens used of each kept record.
    dropped: reason -> records. shortened: kept records whose prompt lost its end.
    """

    kept: np.ndarray
    text_lengths: np.ndarray
    dropped: Counter
    shortened: int


def select(
    task: str, texts: np.ndarray, payloads: np.ndarray, max_seq_len: int, max_prompt: int | None = None
) -> Selection:
    """Decide by lengths.

    Args:
        texts, payloads: int [n], tokens of each record's caption and of its image or sound.
        max_seq_len: tokens of a whole sequence, the five special tokens included.
        max_prompt: longest prompt of an emit task; longer ones are shortened.
    """
    texts, payloads = np.asarray(texts, np.int64), np.asarray(payloads, np.int64)
    emits = task in EMIT_TASKS
    sources, targets = (texts, payloads) if emits else (payloads, texts)
    room = max_seq_len - OVERHEAD - payloads
    used = np.minimum(texts, np.minimum(room, max_prompt) if max_prompt is not None else room) if emits else texts
    no_target, no_source = targets == 0, (targets > 0) & (sources == 0)
    too_long = ~no_target & ~no_source & ((used < 1) | (used > room))
    kept = np.flatnonzero(~(no_target | no_source | too_long))
    dropped = Counter(
        {
            "empty_target": int(no_target.sum()),
            "empty_source": int(no_source.sum()),
            "too_long": int(too_long.sum()),
        }
    )
    return Selection(kept, used[kept], +dropped, int((used[kept] < texts[kept]).sum()))


def needed(task: str, texts: np.ndarray, payloads: np.ndarray) -> np.ndarray:
    """int64, sorted: the max_seq_len from which each record with a source and a target is kept."""
    whole = (texts > 0) & (payloads > 0)
    least = np.minimum(texts, 1) if task in EMIT_TASKS else texts
    return np.sort((least + payloads + OVERHEAD)[whole].astype(np.int64))


def build_examples(ctx: StageContext) -> None:
    """Write {task}-{split}.safetensors for every task and split, and drops.json (schema drops)."""
    space, tokenizer = load(ctx.inputs["token_space"]), open_tokenizer(ctx.inputs["token_space"])
    max_seq_len, max_prompt = (
        ctx.profile["examples.max_seq_len"],
        ctx.profile.get("examples.max_prompt_tokens"),
    )
    lost = _lost(ctx)
    by_split: dict[str, dict[str, Any]] = {split: {} for split in SPLITS}
    needs: dict[str, np.ndarray] = {}  # of tasks that keep nothing of train
    for modality in MODALITIES:
        for split in SPLITS:
            shards = ShardSet.open(ctx.inputs["shards"], modality, split, space)
            captions = _tokenised(shards, tokenizer, space, ctx.bar(f"{modality} captions of {split}"))
            for task in (task for task in TASKS if MODALITY_OF[task] == modality):
                texts = captions.lengths
                chosen = select(task, texts, shards.lengths, max_seq_len, max_prompt)
                if split == "train" and not len(chosen.kept) and chosen.dropped["too_long"]:
                    needs[task] = needed(task, texts, shards.lengths)
                _save(ctx.out / f"{task}-{split}.safetensors", chosen, captions, shards, space, task)
                by_split[split][task] = _count(chosen, lost[modality, split])
                ctx.log(f"{task} {split}: {_told(by_split[split][task])}")
    _refuse_unusable(needs, max_seq_len)
    totals = {task: _sum([by_split[split][task] for split in SPLITS]) for task in TASKS}
    write_json(ctx.out / "drops.json", {**totals, "by_split": by_split, "max_seq_len": max_seq_len})


@dataclass(frozen=True)
class Captions:
    """The text ids of n captions, one after another: ids int32 [tokens], offsets int64 [n + 1]."""

    ids: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """int64 [n]: tokens of each caption."""
        return np.diff(self.offsets)

    def heads(self, kept: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """int32: the first ``lengths`` ids of each of the captions ``kept``, one after another."""
        ends = np.cumsum(lengths)
        out = np.empty(int(ends[-1]) if len(ends) else 0, np.int32)
        for first in range(0, len(kept), _CHUNK):  # an index is twice as large as the id that it fetches
            part = slice(first, first + _CHUNK)
            start = int(ends[first] - lengths[first])
            shift = np.repeat(self.offsets[kept[part]] - (ends[part] - lengths[part]), lengths[part])
            out[start : start + len(shift)] = self.ids[np.arange(start, start + len(shift)) + shift]
        return out


def _lost(ctx: StageContext) -> Counter:
    """(modality, split) -> records that could not be encoded."""
    failed = {row["id"] for row in iter_jsonl(ctx.inputs["shards"] / "errors.jsonl")}
    rows = iter_jsonl(ctx.inputs["split"] / "split.jsonl") if failed else ()
    return Counter((row["modality"], row["split"]) for row in rows if row["id"] in failed)


def _tokenised(
    shards: ShardSet, tokenizer: Tokenizer, space: TokenSpace, progress: Callable[[int, int], None]
) -> Captions:
    ids, lengths = array("i"), array("q", [0])
    for done, one in enumerate(encoded(tokenizer, (record["caption"] for record in shards.records))):
        if done % _TOLD == 0:
            progress(done, len(shards))
        ids.extend(one)
        lengths.append(len(one))
    found = space.check_text(np.frombuffer(ids, np.int32))
    return Captions(found, np.cumsum(np.frombuffer(lengths, np.int64)))


def _refuse_unusable(needs: dict[str, np.ndarray], max_seq_len: int) -> None:
    """Name the smallest max_seq_len with which every one of these tasks keeps something, and one for most."""
    if not needs:
        return
    least = {task: int(lengths[0]) for task, lengths in needs.items()}
    most = max(int(lengths[int(np.ceil(0.9 * len(lengths))) - 1]) for lengths in needs.values())
    raise UserError(
        f"too small for any example of {', '.join(needs)}",
        where="examples.max_seq_len",
        found=max_seq_len,
        expected=f"at least {max(least.values())} ({', '.join(f'{task} {n}' for task, n in least.items())}); "
        f"{most} keeps 90 % of each",
        fix="raise it, or lower codecs.audio.clip_seconds",
    )


def _save(
    path: Path,
    chosen: Selection,
    captions: Captions,
    shards: ShardSet,
    space: TokenSpace,
    task: str,
) -> None:
    save_tensors(
        path,
        {
            "records": chosen.kept,
            "lengths": (chosen.text_lengths + shards.lengths[chosen.kept] + OVERHEAD).astype(np.int32),
            "text_ids": captions.heads(chosen.kept, chosen.text_lengths),
            "text_offsets": np.concatenate([[0], np.cumsum(chosen.text_lengths, dtype=np.int64)]),
        },
        {
            "token_space": space.digest,
            "task": task,
            "split": shards.split,
            "modality": shards.modality,
            "n": len(chosen.kept),
        },
    )


def _count(chosen: Selection, not_encoded: int) -> dict[str, Any]:
    dropped = chosen.dropped + Counter({"not_encoded": not_encoded})
    return {"kept": len(chosen.kept), "dropped": dict(+dropped), "shortened_prompt": chosen.shortened}


def _sum(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    dropped = sum((Counter(part["dropped"]) for part in parts), Counter())
    return {
        "kept": sum(part["kept"] for part in parts),
        "dropped": dict(dropped),
        "shortened_prompt": sum(part["shortened_prompt"] for part in parts),
    }


def _told(part: dict[str, Any]) -> str:
    dropped = ", ".join(f"{n} {reason}" for reason, n in sorted(part["dropped"].items())) or "none"
    return f"{part['kept']} kept, dropped: {dropped}, {part['shortened_prompt']} prompts shortened"
