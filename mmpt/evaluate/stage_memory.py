"""GPU memory of every stage that trains or runs the model, before anything is there.

The stages' own functions run on device "meta", with all layers of the model but less often than in the stage, and
`mmpt.model.meta.PeakMemory` counts what they allocate:

    warmup, train, resume_check      a step of mmpt.train.loop: two micro-batches, those with most tokens
    preflight                        gate A2's step, two pieces
    warmup_check, ablation, ..       the batch of mmpt.evaluate.scoring with the longest targets
    text_regression                  a batch of mmpt.evaluate.text
    generate, trend                  mmpt.generate's buffers and prompts, and a step at the full width

Codecs are not counted: their networks are known once their files are there.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from mmpt.evaluate.golden import EMIT, TEMPERATURE, Setting, golden_pieces, reserve_piece
from mmpt.evaluate.scoring import TOKENS_PER_BATCH, batch_nll, laid_out
from mmpt.evaluate.sets import Record, record_prompt
from mmpt.evaluate.text import CHUNK, ROWS, piece_nll
from mmpt.evaluate.trainable import probe_step
from mmpt.model.meta import SCRATCH, PeakMemory, as_on_cuda, meta_model
from mmpt.model.multimodal import MultimodalLM
from mmpt.shards.fitting import Kept
from mmpt.tokens import TokenSpace
from mmpt.tokens.formats import OVERHEAD
from mmpt.train.footprint import CONTEXT_BYTES, SLACK, Shape
from mmpt.train.loop import rehearse
from mmpt.train.measured import random_loader, settings_of
from mmpt.train.schedule import optimizer_of

PIECES = 2  # micro-batches of a counted step: the second one meets the gradients of the first
LAID_OUT = 4  # steps whose largest micro-batches are taken
READ = ("a2t", "i2t")
# Stages that use the device and are not counted: the exported model in other runtimes, and operations of fixed sizes.
NOT_COUNTED = ("staged_export", "kernels")


@dataclass(frozen=True)
class StageMemory:
    """Bytes on one device.

    Args:
        stages: which have this peak. doing: what needs it.
        weights: of the frozen base, or of two where two models are there.
        peak: counted, with the weights.
    """

    stages: tuple[str, ...]
    doing: str
    weights: int
    peak: int

    @property
    def total(self) -> int:
        """With the allocator's slack, the kernels' scratch and CUDA's own context."""
        slack = (self.peak - self.weights) * (SLACK["cuda"] - 1)
        return round(self.peak + slack) + SCRATCH + CONTEXT_BYTES["cuda"]

    def to_json(self) -> dict[str, Any]:
        """All values, and `total`."""
        return {**asdict(self), "stages": list(self.stages), "total": self.total}


@dataclass(frozen=True)
class Counting:
    """What the stages' sizes follow from.

    Args:
        shape: of the model. data: the resolved profile's.
        kept: by task, of `mmpt.shards.fitting.keeps`.
        texts, payloads: longest by modality ("audio", "image"), tokens.
    """

    shape: Shape
    data: Mapping[str, Any]
    kept: Mapping[str, Kept]
    texts: Mapping[str, int]
    payloads: Mapping[str, int]

    @property
    def space(self) -> TokenSpace:
        return self.shape.space

    def stages(self, on_stage: Callable[[str], None] = lambda name: None) -> list[StageMemory]:
        """All of them, those that train first. on_stage(name): before each is counted."""
        with as_on_cuda(), PeakMemory() as memory:
            return list(self._counted(memory, on_stage))

    def _counted(self, memory: PeakMemory, on_stage: Callable[[str], None]) -> Iterator[StageMemory]:
        """One model serves all stages that train, another one all that evaluate; building one takes seconds."""

        def peak(stages: tuple[str, ...], doing: str, run: Callable[[], Any], models: int = 1) -> StageMemory:
            on_stage(stages[0])
            gc.collect()
            memory.restart()
            run()
            return StageMemory(stages, doing, models * weights, memory.peak)

        model, per_task = self._model(), self.data["evaluate"]["trend"]["golden_per_task"]
        weights = sum(one.numel() * one.element_size() for one in model.frozen().values())
        yield peak(("warmup",), "a training step on reading", partial(self._warmup, model))
        yield peak(("preflight",), "a step of gate A2", partial(self._probe, model))
        split = self.data.get("launcher", {}).get("shard_base", False)
        if not split:  # else each rank holds a share of the base, which `mmpt.train.footprint.memory` counts
            yield peak(("train", "resume_check"), "a training step", partial(self._step, model))
            doing = "a save: a second model decodes stage trend's golden sets"
            yield peak(("train",), doing, partial(self._save, model, per_task), models=2)
        del model
        gc.collect()
        opened = self._opened()
        losing = ("warmup_check", "ablation", "read_regression", "scores")
        yield peak(losing, "losses of a batch", partial(self._losses, opened))
        yield peak(("trend",), "its golden sets", partial(self._decode, opened, per_task, ("greedy",)))
        doing = f"all {self._slots()} slots at their longest output"
        golden = self.data["golden"]["per_task"]
        yield peak(("generate",), doing, partial(self._decode, opened, golden, tuple(TEMPERATURE)))
        yield peak(("text_regression",), "a batch of held-out text", partial(self._text, opened))

    # ---- training ----------------------------------------------------------------------------------------------------

    def _model(self) -> MultimodalLM:
        """As stage train's `prepare_train` gives it; torch.compile keeps less, and is left out."""
        train = self.data["train"]
        model = meta_model(
            self.shape.config, self.space, self.shape.lora, self.shape.dtype, train.get("layer_norm", False)
        )
        model.checkpoint_layers(train.get("activation_checkpointing", False))
        return model

    def _warmup(self, model: MultimodalLM) -> None:
        """As `prepare_warmup`: read tasks; the rows alone, unless `warmup.lora` trains LoRA on some text, too."""
        data, rows_only = dict(self.data), self.data["warmup"].get("lora") is None
        data["train"] = {**data["train"], "tokens_per_step": data["warmup"]["tokens_per_step"]}
        if rows_only:
            model.train_rows_only()
            data["mixture"] = {**data["mixture"], "text_replay": 0.0}
        reading = {task: one for task, one in self.kept.items() if task in READ}
        self._rehearse(model, data, reading or self.kept)
        model.train_all()

    def _step(self, model: MultimodalLM) -> None:
        self._rehearse(model, self.data, self.kept)

    def _save(self, model: MultimodalLM, per_task: int) -> None:
        optimizer = self._rehearse(model, self.data, self.kept, pieces=0)
        self._decode(self._opened(), per_task, ("greedy",))
        optimizer.zero_grad(set_to_none=True)

    def _rehearse(
        self, model: MultimodalLM, data: Mapping[str, Any], kept: Mapping[str, Kept], pieces: int = PIECES
    ) -> torch.optim.Optimizer:
        last = data["train"]["steps"] - 1  # past the ramp
        steps = range(max(0, last - LAID_OUT + 1), last + 1)
        loader = random_loader(self.space, data, kept)
        model.zero_grad(set_to_none=True)
        return rehearse(model.train(), loader, settings_of(data), pieces, steps)

    def _probe(self, model: MultimodalLM) -> None:
        probe_step(model, optimizer_of(model, settings_of(self.data)), most_pieces=PIECES)

    # ---- evaluation --------------------------------------------------------------------------------------------------

    def _opened(self) -> MultimodalLM:
        """As `mmpt.evaluate.checkpoint.Workshop.opened` gives it."""
        model = self._model().eval()
        with torch.no_grad(), model.merged(restore=False):
            return model

    def _losses(self, model: MultimodalLM) -> None:
        for task in self.kept:
            record = self._record(task)
            prompt, target = record_prompt(self.space, record), np.asarray(record["target_ids"])
            count = max(1, TOKENS_PER_BATCH // (len(prompt) + len(target)))
            batch_nll(model, *laid_out([prompt] * count, [target] * count))

    def _text(self, model: MultimodalLM) -> None:
        ids = torch.zeros(ROWS, CHUNK, dtype=torch.int64, device="meta")
        piece_nll(model, ids, (0, self.space.vocab_size_total))

    def _decode(self, model: MultimodalLM, per_task: int, decodings: Sequence[str]) -> None:
        """The largest piece of the golden sets, with guidance where the profile has it."""
        sets = {task: [self._record(task)] * per_task for task in self.kept}
        setting = Setting(self.data["seed"], **self._decoding())
        pieces = golden_pieces(self.space, sets, setting, decodings=decodings, free=len(decodings) > 1)
        for guided in {piece.guided for piece in pieces}:
            largest = max((piece for piece in pieces if piece.guided == guided), key=lambda piece: piece.size)
            reserve_piece(model, self.space, largest, setting)

    def _slots(self) -> int:
        outputs = 2 * len(TEMPERATURE) * self.data["golden"]["per_task"] * len(self.kept)
        return min(self.data["generate"]["batch_size"], outputs)

    def _decoding(self) -> dict[str, Any]:
        wanted = ("top_k", "top_p", "guidance", "batch_size", "max_text_tokens")
        return {key: self.data["generate"][key] for key in wanted}

    def _record(self, task: str) -> Record:
        """A golden record of the longest lengths."""
        kind = "audio" if task in ("a2t", "t2a") else "image"
        text = np.zeros(self.texts[kind], np.int64)
        frames = max(1, self.payloads[kind] // max(1, self.space.n_codebooks))
        if kind == "audio":
            payload = self.space.audio_to_global(np.zeros((self.space.n_codebooks, frames), np.int64))
        else:
            payload = self.space.image_to_global(np.zeros(self.payloads[kind], np.int64))
        prompt, target = (text, payload) if task in EMIT else (payload, text)
        return {"id": task, "task": task, "prompt_ids": prompt, "target_ids": target, "n_frames": frames}


def longest(texts: np.ndarray, payloads: np.ndarray, max_seq_len: int, max_prompt: int | None) -> tuple[int, int]:
    """(text, payload) tokens of the longest sequence that a profile keeps.

    texts, payloads: int64 [n] of the records of one modality. max_prompt: longest prompt, None: no bound.
    """
    fitting = payloads[payloads + OVERHEAD < max_seq_len]
    payload = int(fitting.max(initial=1))
    room = max(1, max_seq_len - OVERHEAD - payload)
    return max(1, min(int(texts.max(initial=1)), room, max_prompt or room)), payload
