"""GPU memory of every stage that uses the GPU, estimated before anything is built.

The stages' own functions run on device "meta", with all layers of the model but less often than in the stage, and
`mmpt.model.meta.PeakMemory` counts what they allocate:

    kernels                          the cases of mmpt.ops.reference_check
    codecs, shards, shard_audit      networks of mmpt.codecs.networks: a batch encoded, a medium decoded
    warmup, train, resume_check      a step of mmpt.train.loop: two micro-batches, those with most tokens
    train, generate                  the independent scorer, mmpt.model.plain, on the longest sequences
    preflight                        gate A2's step, two pieces; stored items decoded
    warmup_check, ablation, ..       the batch of mmpt.evaluate.scoring with the longest targets
    scores                           a batch of CLIP and of CLAP, where the profile asks for them
    text_regression                  a batch of mmpt.evaluate.text
    generate, trend                  mmpt.generate's buffers and prompts, and a step at the full width
    staged_export                    plain transformers: the prompts of a batch, and a step at the full width

Stages that decode media hold the codecs' networks while the model is there.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from mmpt.codecs.contract import ITEMS
from mmpt.codecs.networks import Networks, networks, unknown
from mmpt.evaluate.golden import TEMPERATURE, DecodingSettings, golden_pieces, reserve_piece
from mmpt.evaluate.judge_networks import judges
from mmpt.evaluate.scoring import TOKENS_PER_BATCH, batch_nll, laid_out
from mmpt.evaluate.sets import Record, record_prompt
from mmpt.evaluate.text import CHUNK, ROWS, piece_nll
from mmpt.evaluate.trainable import probe_step
from mmpt.model.attention import cached
from mmpt.model.meta import SCRATCH, PeakMemory, as_on_cuda, meta_causal, meta_model
from mmpt.model.multimodal import MultimodalLM
from mmpt.model.plain import TOKENS_AT_ONCE, PlainLM, sequence, with_rows
from mmpt.model.runtimes import ROWS as EXPORT_ROWS
from mmpt.ops import reference_check
from mmpt.shards.fitting import Kept
from mmpt.store.tasks import EMIT_TASKS, READ_TASKS
from mmpt.tokens import TokenSpace
from mmpt.tokens.formats import OVERHEAD
from mmpt.train.fit_measure import random_loader, settings_of
from mmpt.train.footprint import CONTEXT_BYTES, SLACK, ModelSizes
from mmpt.train.loop import rehearse
from mmpt.train.schedule import optimizer_of

PIECES = 2  # micro-batches of a counted step: the second one meets the gradients of the first
LAID_OUT = 4  # steps whose largest micro-batches are taken


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

    shape: ModelSizes
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

        weights = 0

        yield peak(("kernels",), "the cases of gate K1", partial(reference_check.rehearse, "meta"), models=0)
        yield from self._media(peak)
        model, per_task = self._model(), self.data["evaluate"]["trend"]["golden_per_task"]
        weights = sum(one.numel() * one.element_size() for one in model.frozen().values())
        yield peak(("warmup",), "a training step on reading", partial(self._warmup, model))
        yield peak(("preflight",), "a step of gate A2", partial(self._probe, model))
        split = self.data.get("launcher", {}).get("shard_base", False)
        if not split:  # else each rank holds a share of the base, which `mmpt.train.footprint.memory` counts
            yield peak(("train", "resume_check"), "a training step", partial(self._step, model))
            doing = "a save: a second model decodes stage trend's golden sets"
            yield peak(("train",), doing, partial(self._save, model, per_task), models=2)
            yield peak(("train",), "gate B1: a second model scores", partial(self._score_beside, model), models=2)
        del model
        gc.collect()
        opened = self._opened()
        losing = ("warmup_check", "generate", "ablation", "read_regression", "scores")
        yield peak(losing, "losses of a batch", partial(self._losses, opened))
        yield peak(("trend",), "its golden sets", partial(self._decode_media, opened, per_task, ("greedy",)))
        doing = f"all {self._slots()} slots at their longest output"
        golden = self.data["golden"]["per_task"]
        yield peak(("generate",), doing, partial(self._decode_media, opened, golden, tuple(TEMPERATURE)))
        yield peak(("text_regression",), "a batch of held-out text", partial(self._text, opened))
        del opened
        yield peak(("generate",), "the independent scorer", partial(self._score, decoding=True))
        yield peak(("staged_export",), "a batch of its outputs in transformers", self._exported)

    # ---- media -------------------------------------------------------------------------------------------------------

    def _networks(self) -> list[Networks]:
        sections = (section for section in self.data.get("codecs", {}).values() if section)
        return [found for section in sections if (found := networks(section))]

    def uncounted(self) -> list[str]:
        """What uses the GPU and is not counted: networks of codecs that plug-ins bring."""
        sections = {modality: one for modality, one in self.data.get("codecs", {}).items() if one and unknown(one)}
        return [f"the networks of {modality} codec {one['name']}" for modality, one in sections.items()]

    def _media(self, peak: Callable[..., StageMemory]) -> Iterator[StageMemory]:
        if self._networks():
            yield peak(("codecs",), "a codec and a second one in another process", self._tried, models=0)
            if "inputs" not in self.data:  # imported shards are encoded already
                yield peak(("shards",), "a batch encoded", partial(self._encoded, False), models=0)
            yield peak(("shard_audit",), "a batch encoded, a medium decoded", partial(self._encoded, True), models=0)
            yield peak(("preflight",), "stored media decoded", self._decoded, models=0)
        for name, judge in judges(self.data["evaluate"].get("scores") or {}).items():
            yield peak(("scores",), f"a batch of {name}", judge, models=0)

    @torch.inference_mode()
    def _tried(self) -> None:
        """As `mmpt.codecs.contract.examine`, for one codec after the other."""
        for codec, second in zip(self._networks(), self._networks(), strict=True):
            codec.encode(ITEMS)
            context = torch.empty(CONTEXT_BYTES["cuda"], dtype=torch.uint8, device="meta")  # of the other process
            second.encode(ITEMS)
            del second, context
            codec.decode()

    @torch.inference_mode()
    def _encoded(self, decoding: bool) -> None:
        """As stages shards and shard_audit: both codecs stay."""
        for codec in (there := self._networks()):
            if "inputs" not in self.data:
                codec.encode(self.data["shards"]["batch"])
            if decoding:
                codec.decode()
        del there

    @torch.inference_mode()
    def _decoded(self) -> list[Networks]:
        there = self._networks()
        for codec in there:
            codec.decode()
        return there

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
        reading = {task: one for task, one in self.kept.items() if task in READ_TASKS}
        self._rehearse(model, data, reading or self.kept)
        model.train_all()

    def _step(self, model: MultimodalLM) -> None:
        self._rehearse(model, self.data, self.kept)

    def _save(self, model: MultimodalLM, per_task: int) -> None:
        optimizer = self._rehearse(model, self.data, self.kept, pieces=0)
        self._decode_media(self._opened(), per_task, ("greedy",))
        optimizer.zero_grad(set_to_none=True)

    def _score_beside(self, model: MultimodalLM) -> None:
        """As `mmpt.train.independent`: the trained model and its optimizer stay."""
        optimizer = self._rehearse(model, self.data, self.kept, pieces=0)
        self._score()
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
        """As `mmpt.evaluate.checkpoint.EvalContext.opened` gives it."""
        model = self._model().eval()
        with torch.no_grad(), model.merged(restore=False):
            return model

    def _losses(self, model: MultimodalLM) -> None:
        for task in self.kept:
            record = self._record(task)
            prompt, target = record_prompt(self.space, record), np.asarray(record["target_ids"])
            count = max(1, TOKENS_PER_BATCH // (len(prompt) + len(target)))
            batch_nll(model, *laid_out([prompt] * count, [target] * count))

    def _score(self, decoding: bool = False) -> None:
        """The independent scorer on the longest sequences; decoding: with the codecs, as in stage generate."""
        there = self._decoded() if decoding else []
        plain = self._plain()
        for record in self._largest():
            one = sequence(self.space, record["task"], record["prompt_ids"], record["target_ids"])
            plain.rehearse([one] * max(1, TOKENS_AT_ONCE // len(one)))
        del there

    def _plain(self) -> PlainLM:
        """As `PlainLM.open` gives it."""
        causal = meta_causal(self.shape.config, self.shape.dtype)
        rows = torch.empty(self.space.n_new, self.shape.hidden, device="meta")
        with torch.no_grad():
            head = with_rows(causal, defaultdict(lambda: rows), self.space.text_vocab_size, self.shape.tied)
        return PlainLM(causal, head)

    @torch.no_grad()
    def _exported(self) -> None:
        """As `mmpt.model.runtimes` runs the export: one matrix of all ids, and transformers' own cache."""
        causal = meta_causal({**self.shape.config, "vocab_size": self.space.vocab_size_total}, self.shape.dtype)
        rows = min(EXPORT_ROWS, self.data["golden"]["per_task"])
        for record in self._largest():
            prompt, most = len(record_prompt(self.space, record)), len(record["target_ids"]) + 1
            for held, given in ((0, prompt), (prompt + most - 1, 1)):
                decode_step(causal, rows, held, given)
            causal(input_ids=torch.zeros(1, prompt + most - 1, dtype=torch.int64, device="meta"))

    def _decode_media(self, model: MultimodalLM, per_task: int, decodings: Sequence[str]) -> None:
        there = self._decoded()
        self._decode(model, per_task, decodings)
        del there

    def _text(self, model: MultimodalLM) -> None:
        ids = torch.zeros(ROWS, CHUNK, dtype=torch.int64, device="meta")
        piece_nll(model, ids, (0, self.space.vocab_size_total))

    def _decode(self, model: MultimodalLM, per_task: int, decodings: Sequence[str]) -> None:
        """The largest piece of the golden sets, with guidance if the profile sets it."""
        sets = {task: [self._record(task)] * per_task for task in self.kept}
        setting = DecodingSettings(self.data["seed"], **self._decoding())
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

    def _largest(self) -> list[Record]:
        """Records of the tasks with the longest prompt and the longest target."""
        records = [self._record(task) for task in self.kept]
        found = {
            (one := max(records, key=lambda record: len(record[ids])))["id"]: one
            for ids in ("prompt_ids", "target_ids")
        }
        return list(found.values())

    def _record(self, task: str) -> Record:
        """A golden record of the longest lengths."""
        kind = "audio" if task in ("a2t", "t2a") else "image"
        text = np.zeros(self.texts[kind], np.int64)
        width = self.space.stream.width
        frames = max(1, self.payloads[kind] // max(1, width))
        if kind == "audio":
            payload = self.space.audio_to_global(np.zeros((width, frames), np.int64))
        else:
            payload = self.space.image_to_global(np.zeros(self.payloads[kind], np.int64))
        prompt, target = (text, payload) if task in EMIT_TASKS else (payload, text)
        return {"id": task, "task": task, "prompt_ids": prompt, "target_ids": target, "n_frames": frames}


def decode_step(causal: nn.Module, rows: int, held: int, given: int) -> None:
    """A step of transformers' `generate`: `given` ids in each of `rows` sequences that have `held` in the cache."""
    from transformers import DynamicCache

    cache, config = DynamicCache(), causal.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if held:
        for layer in range(config.num_hidden_layers):
            key, value = (torch.zeros(rows, heads, held, width, dtype=causal.dtype, device="meta") for _ in range(2))
            cache.update(key, value, layer)
    ids, attended = (torch.zeros(rows, n, dtype=torch.int64, device="meta") for n in (given, held + given))
    logits = causal(input_ids=ids, attention_mask=attended, logits_to_keep=1, **cached(causal, cache)).logits
    logits[:, -1].float().masked_fill(logits[:, -1] > 0, -torch.inf)  # as the grammar leaves them


def longest(texts: np.ndarray, payloads: np.ndarray, max_seq_len: int, max_prompt: int | None) -> tuple[int, int]:
    """(text, payload) tokens of the longest sequence that a profile keeps.

    texts, payloads: int64 [n] of the records of one modality. max_prompt: longest prompt, None: no bound.
    """
    fitting = payloads[payloads + OVERHEAD < max_seq_len]
    payload = int(fitting.max(initial=1))
    room = max(1, max_seq_len - OVERHEAD - payload)
    return max(1, min(int(texts.max(initial=1)), room, max_prompt or room)), payload
