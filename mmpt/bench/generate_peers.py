"""What decodes the same prompts under the same grammars: ours, and transformers.generate as its users run it and tuned.

All decode greedily with one set of weights. Ours is a segmented model with LoRA merged in place; the peers get the
plain Qwen3ForCausalLM that `doit export` would write. Their prompts are padded on the left, as transformers asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.utils.logging import disable_progress_bar

from mmpt.generate import generate
from mmpt.model.export import merge
from mmpt.model.grammar_logits import Grammar as ExportedGrammar
from mmpt.model.multimodal import MultimodalLM
from mmpt.model.tiny import build_tiny
from mmpt.store.canonical import write_json
from mmpt.tokens import TokenSpace, build_token_space, grammar, prompt
from mmpt.tokens.grammar import Grammar

TEXT, CODEBOOKS, PICTURE, MOST_TEXT = 151_669, 4, 32, 40
LORA = {"r": 16, "alpha": 32, "dropout": 0.0, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}


@dataclass(frozen=True)
class Models:
    """One set of weights twice, and the folder of the exported grammar."""

    space: TokenSpace
    ours: MultimodalLM
    plain: torch.nn.Module
    folder: Path


@dataclass(frozen=True)
class Work:
    """Items of one task, and how many are decoded at a time."""

    task: str
    prompts: tuple[np.ndarray, ...]
    grammars: tuple[Grammar, ...]
    batch: int

    def part(self, places: Sequence[int], batch: int) -> Work:
        prompts, grammars = tuple(self.prompts[i] for i in places), tuple(self.grammars[i] for i in places)
        return Work(self.task, prompts, grammars, batch)

    def batches(self) -> Iterator[Work]:
        for start in range(0, len(self.prompts), self.batch):
            places = range(start, min(start + self.batch, len(self.prompts)))
            yield self.part(places, self.batch)


@contextmanager
def opened(shape: dict, dtype: torch.dtype, device: str, end_scale: float, folder: Path) -> Iterator[Models]:
    """A Qwen3 of `shape` (fields of its config) with random weights and the whole vocabulary of 164,021 ids.

    end_scale: factor on the head row that ends text, so that outputs end, at lengths that differ.
    """
    disable_progress_bar()
    space = build_token_space(
        base_text_model="bench",
        text_vocab_size=TEXT,
        n_special=64,
        image_tokenizer={"codebook_size": 8192},
        audio_codec={"n_codebooks": CODEBOOKS, "codebook_size": 1024},
    )
    with torch.device(device):  # 8 billion random numbers take a processor minutes
        base = build_tiny(shape, TEXT, 0)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if parameter.ndim == 2 and "layers" in name:
                parameter.mul_(5.0)  # else the last id decides the next alone, and greedy decoding soon repeats itself
    base.to(dtype).save_pretrained(folder / "base")
    del base  # of its memory the models and caches below have need
    space.save(folder)
    write_json(
        folder / "grammar.json", {"text_tokens": [1, MOST_TEXT], "audio_frames": [1, 1], "image_tokens": PICTURE}
    )

    def segmented() -> MultimodalLM:
        model = MultimodalLM.from_base(folder / "base", space, LORA, seed=1, dtype=dtype, device=device).eval()
        draw = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, parameter in model.adapter_parameters().items():
                if "lora_B" in name:
                    parameter.copy_(0.02 * torch.randn(parameter.shape, generator=draw))
            model.head_rows[space.special("text_end") - space.new_start] *= end_scale
            for rows in (model.embedding.rows, model.head_rows):
                rows.copy_(rows.to(dtype))  # the export rounds them: both sides get the same numbers
        return model

    with torch.no_grad():
        plain, ours = merge(segmented()).eval(), segmented()
        plain.generation_config.eos_token_id = None
        with ours.merged():
            yield Models(space, ours, plain, folder)


def work(space: TokenSpace, task: str, n: int, frames: int, batch: int) -> Work:
    """n items with prompts of unlike lengths: captions of 8 to 23 ids, sounds of 8 to 23 frames."""
    rng = np.random.default_rng(1)
    prompts, grammars = [], []
    for _ in range(n):
        length = int(rng.integers(8, 24))
        if task == "a2t":
            source = space.audio_to_global(rng.integers(0, 1024, (CODEBOOKS, length)))
        else:
            source = rng.integers(0, TEXT, length)
        prompts.append(prompt(space, task, source))
        grammars.append(grammar(space, task, frames=frames, tokens_per_image=PICTURE, text=(1, MOST_TEXT)))
    return Work(task, tuple(prompts), tuple(grammars), batch)


Ids = list[list[int]]
Peer = Callable[[Models, Work], Ids]


def ours(models: Models, todo: Work) -> Ids:
    outputs = generate(models.ours, todo.prompts, todo.grammars, batch_size=todo.batch, measure_mass=False)
    return [one.ids.tolist() for one in outputs]


def _transformers(models: Models, todo: Work, rules: Callable[[Work, int], dict], **how) -> Ids:
    """One batch by transformers.generate; `rules` gives what keeps it to the grammar, from the prompts' width."""
    out: Ids = []
    for batch in todo.batches():
        width = max(map(len, batch.prompts))
        ids = np.full((len(batch.prompts), width), models.space.special("pad_mm"), np.int64)
        given = np.zeros_like(ids)
        for row, one in enumerate(batch.prompts):
            ids[row, width - len(one) :], given[row, width - len(one) :] = one, 1
        device = models.ours.device
        made = models.plain.generate(
            torch.as_tensor(ids, device=device),
            attention_mask=torch.as_tensor(given, device=device),
            do_sample=False,
            num_beams=1,
            max_new_tokens=batch.grammars[0].max_len,
            eos_token_id=batch.grammars[0].end_id,
            pad_token_id=models.space.special("pad_mm"),
            **rules(batch, width),
            **how,
        )[:, width:].tolist()
        ends = [
            row.index(g.end_id) if g.end_id in row else len(row) for row, g in zip(made, batch.grammars, strict=True)
        ]
        out += [row[:end] for row, end in zip(made, ends, strict=True)]
    return out


def _prefix_function(models: Models):
    """prefix_allowed_tokens_fn with its lists of ids made beforehand, as tensors: the fastest form it can take."""
    made: dict[tuple[int, int, int], torch.Tensor] = {}

    def allowed(bounds: tuple[int, int, int]) -> torch.Tensor:
        if bounds not in made:
            lo, hi, extra = bounds
            made[bounds] = torch.tensor([*range(lo, hi), *([extra] if extra >= 0 else [])], device=models.ours.device)
        return made[bounds]

    def rules(batch: Work, width: int) -> dict:
        return {"prefix_allowed_tokens_fn": lambda row, ids: allowed(batch.grammars[row].at(len(ids) - width))}

    return rules


def as_run(models: Models, todo: Work) -> Ids:
    return _transformers(models, todo, _prefix_function(models))


def static_cache(models: Models, todo: Work) -> Ids:
    return _transformers(models, todo, _prefix_function(models), cache_implementation="static", disable_compile=True)


def compiled(models: Models, todo: Work) -> Ids:
    """On CUDA transformers compiles the step over a static cache by itself."""
    return _transformers(models, todo, _prefix_function(models), cache_implementation="static")


def exported(models: Models, todo: Work) -> Ids:
    """With the processor that `doit export` writes beside the model."""
    frames = todo.grammars[0].max_len // CODEBOOKS
    processor = ExportedGrammar(models.folder, audio_frames=(frames, frames))
    return _transformers(models, todo, lambda batch, width: {"logits_processor": LogitsProcessorList([processor])})


class GrammarMask(LogitsProcessor):
    """Leaves, at position p of row i's payload, exactly the ids which grammar i allows there."""

    def __init__(self, grammars: Sequence[Grammar], prompt_width: int):
        self.grammars, self.prompt_width = grammars, prompt_width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        masked = torch.full_like(scores, -torch.inf)
        for row, one in enumerate(self.grammars):
            lo, hi, extra = one.at(input_ids.shape[1] - self.prompt_width)
            masked[row, lo:hi] = scores[row, lo:hi]
            if extra >= 0:
                masked[row, extra] = scores[row, extra]
        return masked


class AddMask(LogitsProcessor):
    """One grammar for all rows: the mask of each position is made before the run and added in place."""

    def __init__(self, rules: Grammar, width: int, vocab_size: int, device: torch.device):
        self.width, self.at = width, rules.at
        self.masks: dict[tuple[int, int, int], torch.Tensor] = {}
        self.size, self.device = vocab_size, device

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        lo, hi, extra = bounds = self.at(input_ids.shape[1] - self.width)
        if bounds not in self.masks:
            mask = torch.full((self.size,), -torch.inf, device=self.device)
            mask[lo:hi] = 0
            if extra >= 0:
                mask[extra] = 0
            self.masks[bounds] = mask
        return scores.add_(self.masks[bounds])


def _tuned(models: Models, todo: Work, **how) -> Ids:
    """Packed and tuned like ours: prompts in order of length, and no work a row in Python."""
    order = sorted(range(len(todo.prompts)), key=lambda i: (todo.grammars[i].max_len, len(todo.prompts[i])))

    def rules(batch: Work, width: int) -> dict:
        alike = all(one.max_len == batch.grammars[0].max_len for one in batch.grammars)
        size, device = models.space.vocab_size_total, models.ours.device
        mask = AddMask(batch.grammars[0], width, size, device) if alike else GrammarMask(batch.grammars, width)
        return {"logits_processor": LogitsProcessorList([mask])}

    made = _transformers(models, todo.part(order, todo.batch), rules, **how)
    return [ids for _, ids in sorted(zip(order, made, strict=True))]


def tuned(models: Models, todo: Work) -> Ids:
    return _tuned(models, todo)


def tuned_compiled(models: Models, todo: Work) -> Ids:
    return _tuned(models, todo, cache_implementation="static")


def alone(peer: Peer) -> Peer:
    """`peer` on one sequence after the other."""
    return lambda models, todo: peer(models, replace(todo, batch=1))


def peers(device: str, dtype: str) -> dict[str, Peer]:
    """By name; those that end in "batch 1" take one sequence after the other."""
    found: dict[str, Peer] = {"mmpt": ours, "transformers": as_run, "transformers, tuned": tuned}
    if device == "cuda" or dtype == "float32":  # in bf16 a CPU needs minutes for transformers, so only for two of them
        found["transformers, static cache"] = static_cache
        found["transformers, our exported processor"] = exported
    if device == "cuda":
        found["transformers, static cache, compiled"] = compiled
        found["transformers, tuned, static cache, compiled"] = tuned_compiled
    return {**found, "transformers, batch 1": alone(as_run), "mmpt, batch 1": alone(ours)}
