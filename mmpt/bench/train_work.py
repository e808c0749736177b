"""The work of the training benchmark: a base model, shards and examples of the four tasks, and the FLOPs of a step.

Tokens are drawn at random, in the lengths that captions, pictures and sounds have, and written in this project's
own files; every contender reads them there. A step is always the same number of items, a quarter of each task.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmpt.model.fused_lora import fold_small_layers
from mmpt.model.multimodal import MultimodalLM, lora_config
from mmpt.model.norms import fuse_norms
from mmpt.model.tiny import build_tiny
from mmpt.model.vocabulary import SegmentedEmbedding
from mmpt.shards.example_set import ExampleSet
from mmpt.shards.loader import Loader, make_loader
from mmpt.shards.tokenise import save_shard
from mmpt.store.tasks import MODALITIES, MODALITY_OF, TASKS
from mmpt.store.tensors import save_tensors
from mmpt.tokens.formats import OVERHEAD
from mmpt.tokens.space import TokenSpace, build_token_space
from mmpt.train.speed import Flops

RECORDS = 64  # of each modality
PER_TASK = 4  # items of each task in a step
STEP_ITEMS = len(TASKS) * PER_TASK  # 16: what the reference accumulates
LORA = {
    "r": 8,
    "alpha": 16,
    "dropout": 0.0,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
_CAPTION = (5, 30)  # tokens, around 12: what a sentence about a sound or a picture has


@dataclass(frozen=True)
class Workload:
    """A model and the lengths of what it is trained on.

    config: fields of Qwen3Config. text: ids of the tokenizer. padded: rows of the base's embedding.
    special, image, codes: sizes of the new segments (codes: of each of 4 codebooks).
    picture: tokens of one. frames: shortest and longest sound; a frame is 4 tokens. row_len: of a packed row.
    micro_rows: rows that go through a model at once; a step has more, but no more than twice as many.
    """

    config: Mapping[str, Any]
    text: int = 151_669
    padded: int = 151_936
    special: int = 64
    image: int = 8192
    codes: int = 1024
    picture: int = 32
    frames: tuple[int, int] = (24, 96)
    row_len: int = 448
    micro_rows: int = 3


def _qwen3(hidden: int, layers: int, heads: int, kv: int, width: int, inter: int, tied: bool) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": width,
        "intermediate_size": inter,
        "tie_word_embeddings": tied,
    }


TEN_SECONDS: dict[str, Any] = {"frames": (250, 750), "row_len": 3072}  # of EnCodec at 24 kHz
WORKLOADS = {
    "smallest": Workload(
        _qwen3(16, 2, 2, 1, 8, 24, True),
        text=400,
        padded=420,
        special=16,
        image=64,
        codes=16,
        picture=8,
        frames=(4, 16),
        row_len=112,
        micro_rows=4,
    ),  # to try the benchmark itself
    "tiny": Workload(_qwen3(256, 4, 4, 2, 64, 768, True)),
    "tiny-untied": Workload(_qwen3(256, 4, 4, 2, 64, 768, False)),
    "qwen3-0.6b": Workload(_qwen3(1024, 28, 16, 8, 128, 3072, True), **TEN_SECONDS),
    "qwen3-8b": Workload(_qwen3(4096, 36, 32, 8, 128, 12_288, False), **TEN_SECONDS),
}


def space_of(shape: Workload) -> TokenSpace:
    """The token space; of the reference's 164,021 ids unless the shape is a smaller one."""
    return build_token_space(
        base_text_model="bench",
        text_vocab_size=shape.text,
        n_special=shape.special,
        image_tokenizer={"name": "bench", "codebook_size": shape.image, "tokens_per_image": shape.picture},
        audio_codec={"name": "bench", "n_codebooks": 4, "codebook_size": shape.codes},
    )


def make_base(folder: Path, shape: Workload, dtype: torch.dtype, device: str) -> None:
    """A random Qwen3 in `folder`, made on `device`, where nothing of it stays."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            build_tiny(shape.config, shape.padded, 0).save_pretrained(folder)
    finally:
        torch.set_default_dtype(before)
    if device == "cuda":
        torch.cuda.empty_cache()


def make_data(folder: Path, shape: Workload) -> None:
    """Shards and examples of RECORDS sounds and pictures in `folder`, drawn from a fixed seed."""
    space, rng = space_of(shape), np.random.default_rng(0)
    captions = {kind: _captions(rng, shape) for kind in MODALITIES}
    low, high = shape.frames
    middle = np.sqrt(low * high)
    frames = np.clip(rng.lognormal(np.log(middle), 0.35, RECORDS).astype(int), low, high)
    payloads = {
        "audio": [space.audio_to_global(rng.integers(0, shape.codes, (4, n))) for n in frames],
        "image": [space.image_to_global(rng.integers(0, shape.image, shape.picture)) for _ in frames],
    }
    _even(captions["audio"], payloads, captions["image"])
    for modality, ids in payloads.items():
        rows = [{"id": f"{modality}-{i}", "group": f"{modality}-{i}"} for i in range(RECORDS)]
        stamp = {"token_space": space.digest, "codec": "bench"}
        save_shard(folder, modality, "train", 0, ids, rows, stamp)
    for task in TASKS:
        modality = MODALITY_OF[task]
        _save_examples(folder, space, task, captions[modality], payloads[modality])


def _captions(rng: np.random.Generator, shape: Workload) -> list[np.ndarray]:
    lengths = np.clip(rng.lognormal(np.log(12), 0.35, RECORDS).astype(int), *_CAPTION)
    return [rng.integers(0, shape.text, n).astype(np.int32) for n in lengths]


def _even(captions: list[np.ndarray], payloads: Mapping[str, list[np.ndarray]], others: list[np.ndarray]) -> None:
    """Lengthen the last caption until a step's mean number of tokens is whole: then every step has the same items."""
    total = sum(map(len, [*captions, *others, *payloads["audio"], *payloads["image"]]))
    missing = -total % (RECORDS // PER_TASK)
    captions[-1] = np.concatenate([captions[-1], captions[0].repeat(4)[:missing]])


def _save_examples(folder: Path, space: TokenSpace, task: str, texts: list[np.ndarray], ids: list[np.ndarray]) -> None:
    lengths = np.array([len(a) + len(b) + OVERHEAD for a, b in zip(texts, ids, strict=True)], np.int32)
    tensors = {
        "records": np.arange(RECORDS),
        "lengths": lengths,
        "text_ids": np.concatenate(texts),
        "text_offsets": np.cumsum([0, *map(len, texts)], dtype=np.int64),
    }
    save_tensors(folder / f"{task}-train.safetensors", tensors, {"token_space": space.digest, "task": task})


def open_loader(folder: Path, shape: Workload) -> Loader:
    """Batches of PER_TASK items of each task."""
    space = space_of(shape)
    sources = {task: ExampleSet.open(folder, folder, space, task, "train") for task in TASKS}
    tokens = PER_TASK * sum(int(one.lengths.sum()) for one in sources.values()) // RECORDS
    return make_loader(
        sources,
        weights=dict.fromkeys(TASKS, 0.25),
        text_replay=0.0,
        ramp=0.0,
        steps=1,
        tokens_per_step=tokens,
        row_len=shape.row_len,
        pad_id=space.special("pad_mm"),
        prompt_dropout=0.0,
        seed=0,
    )


def start_values(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """fp32 start values of what trains, a function of its name: LoRA's B too, so that A has a gradient to compare."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    spread = shape[1] ** -0.5 if "lora_A" in name else 0.02
    return spread * torch.randn(shape, generator=generator)


def meta_model(shape: Workload, dtype: torch.dtype, *, ours: bool = True) -> MultimodalLM:
    """The benchmark's model without storage. ours False: with PEFT's LoRA and transformers' norms."""
    from peft import get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    space, config = space_of(shape), Qwen3Config(**shape.config, vocab_size=shape.padded)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        causal: Any = Qwen3ForCausalLM(config)
        causal = causal.to(dtype).requires_grad_(False)
        rows = torch.empty(space.n_new, config.hidden_size)
        head = None if config.tie_word_embeddings else nn.Parameter(torch.empty_like(rows))
        matrix = causal.get_input_embeddings().weight
        causal.set_input_embeddings(SegmentedEmbedding(matrix, rows, space.text_vocab_size))
        lm = get_peft_model(causal, lora_config(LORA, None))
    if ours:
        fold_small_layers(lm)
        fuse_norms(lm)
    model = MultimodalLM(lm, space, head, LORA)
    model.train_all()
    return model.train()


def step_flops(shape: Workload) -> Flops:
    """Floating point operations that training the adapter has to execute, as `Flops` counts them for our own runs;
    every contender's utilisation is measured by it.
    """
    return Flops.of(meta_model(shape, torch.float32), "full")
