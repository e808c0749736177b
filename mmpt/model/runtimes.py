"""Runtimes that users decode an exported folder with, each as a function that gives the folder's greedy ids.

A runtime gets nothing of ours but the folder: the weights, and the grammar file that lies in it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

ROWS = 64  # sequences of a batch


@dataclass(frozen=True)
class Asked:
    """One greedy output to make.

    prompt: int ids [P], up to and including the start token. frames: (least, most) of a sound, equal for an exact
    length; None: as the folder's grammar.json says.
    """

    task: str
    prompt: np.ndarray
    frames: tuple[int, int] | None = None


Runtime = Callable[[Path, Sequence[Asked], torch.dtype, str], list[np.ndarray]]


def transformers_ids(folder: Path, asked: Sequence[Asked], dtype: torch.dtype, device: str) -> list[np.ndarray]:
    """Payloads int64 [n] without their end token, by `generate` of plain transformers, in left-padded batches."""
    model, module = open_plain(folder, dtype, device), grammar_module(folder)
    found: dict[int, np.ndarray] = {}
    for members in _alike(asked):
        first = asked[members[0]]
        grammar = module.Grammar(folder, audio_frames=first.frames)
        prompts = [asked[i].prompt for i in members]
        ids, attended = _padded_left(prompts, pad=int(model.generation_config.pad_token_id))
        out = model.generate(
            torch.as_tensor(ids, device=device),
            attention_mask=torch.as_tensor(attended, device=device),
            do_sample=False,
            num_beams=1,
            max_new_tokens=grammar.most(first.task),
            eos_token_id=grammar.end(first.task),
            logits_processor=[grammar],
        )[:, ids.shape[1] :]
        for i, row in zip(members, out.cpu().numpy(), strict=True):
            ends = np.flatnonzero(row == grammar.end(first.task))
            found[i] = row[: ends[0]] if len(ends) else row
    return [found[i] for i in range(len(asked))]


RUNTIMES: dict[str, Runtime] = {"transformers": transformers_ids}


def open_plain(folder: Path, dtype: torch.dtype, device: str) -> Any:
    """The folder's model as plain transformers loads it."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
    return model.to(device).eval()


def grammar_module(folder: Path) -> ModuleType:
    """The folder's own grammar_logits.py, imported as its users import it.

    Raises:
        ImportError: the file cannot be imported.
    """
    spec = importlib.util.spec_from_file_location("exported_grammar_logits", folder / "grammar_logits.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} has no grammar_logits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _alike(asked: Sequence[Asked]) -> Iterator[list[int]]:
    """Places of outputs that one call of generate can make: one task, one length, at most ROWS."""
    groups: dict[tuple[str, tuple[int, int] | None], list[int]] = {}
    for place, one in enumerate(asked):
        groups.setdefault((one.task, one.frames), []).append(place)
    for members in groups.values():
        yield from (members[start : start + ROWS] for start in range(0, len(members), ROWS))


def _padded_left(prompts: Sequence[np.ndarray], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, attention mask), int64 [n, longest] each."""
    width = max(map(len, prompts))
    ids, attended = np.full((len(prompts), width), pad, np.int64), np.zeros((len(prompts), width), np.int64)
    for row, one in enumerate(prompts):
        ids[row, width - len(one) :], attended[row, width - len(one) :] = one, 1
    return ids, attended


@torch.no_grad()
def preference(model: Any, before: np.ndarray, one: int, other: int) -> float:
    """How much higher the logit of `one` is than that of `other` after the ids `before`, as a share of the largest."""
    logits = model(input_ids=torch.as_tensor(before[None], device=model.device).long()).logits[0, -1].float()
    return float((logits[one] - logits[other]) / logits.abs().max())
