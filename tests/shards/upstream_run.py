"""A small run in upstream's layout: uti.yaml, token space, tar shards, JSONL, rows, LoRA, base model."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmpt.codecs import registry
from mmpt.codecs.melrvq import MelRvq, MelRvqOptions
from mmpt.codecs.patchvq import PatchVq, PatchVqOptions
from mmpt.corpus.generated import generate_pictures, generate_sounds
from mmpt.corpus.text import generate_sentences
from mmpt.shards.text_set import open_tokenizer
from mmpt.shards.token_space import train_tokenizer, vocabulary_size
from mmpt.tokens.formats import build
from mmpt.tokens.names import SPECIALS
from mmpt.tokens.space import TokenSpace, from_json, upstream_sha

LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj", "down_proj"]}
CODEBOOKS, CODES, PATCHES = 2, 32, 48


@dataclass
class UpstreamRun:
    """Where everything lies, and what is in it."""

    root: Path
    space: TokenSpace
    sha: str
    items: list[dict[str, Any]]

    def profile(self, **changes: Any) -> dict[str, Any]:
        """A profile over `smoke` that imports the run; `changes`: whole top-level sections."""
        inputs = {
            "uti": str(self.root / "uti.yaml"),
            "token_space": str(self.root / "token_space.json"),
            "shards": [{"name": n, "path": str(self.root / "tokenized" / n)} for n in ("sounds", "pictures")],
            "stage3": str(self.root / "checkpoint_24"),
        }
        return {
            "extends": "smoke",
            "name": "brought",
            "runtime": {"threads": 1},
            "inputs": inputs,
            "gates": [
                {"gate": "W1", "check": check, "severity": "warn", "reason": "rows that were hardly trained"}
                for check in ("gap", "win_rate")
            ],
            "codecs": {
                "audio": {
                    "name": "melrvq",
                    "path": str(self.root / "codecs/audio"),
                    "clip_seconds": 1.0,
                    "n_codebooks": CODEBOOKS,
                    "codebook_size": CODES,
                },
                "image": {"name": "patchvq", "path": str(self.root / "codecs/image")},
            },
            "base": {"kind": "pretrained", "path": str(self.root / "base")},
            "text": {"train_sentences": 200, "heldout_sentences": 200},
            "lora": LORA,
            "split": {"val": 0.1, "test": 0.3},
            "golden": {"per_task": 4, "ablation": 12},
            "train": {
                "steps": 4,
                "tokens_per_step": 512,
                "row_len": 256,
                "save_every": 2,
                "log_every": 2,
                "warmup_steps": 1,
            },
            "generate": {"batch_size": 64, "max_text_tokens": 6},
            "evaluate": {
                "trend": {"golden_per_task": 2, "ablation": 4},
                "bootstrap": 200,
                "text_tokens": 500,
                "resume": {"before": 2, "after": 1},
            },
            **changes,
        }


def build_run(root: Path, sounds: int = 40, pictures: int = 40) -> UpstreamRun:
    """The whole run. Every fifth item is held out; no recording is on both sides."""
    root.mkdir(parents=True, exist_ok=True)
    heard, seen = generate_sounds(3, sounds), generate_pictures(3, pictures)
    audio = MelRvq.fit([one.medium[None] for one in heard], MelRvqOptions(CODEBOOKS, CODES, stack=8))
    image = PatchVq.fit([one.medium for one in seen], PatchVqOptions(size=48, patch=12, codebook_size=PATCHES))
    clipping = {"clip_seconds": 1.0, "crop": "first", "resampler": "x"}
    registry.save(audio, root / "codecs/audio", "melrvq", "audio", **clipping)
    registry.save(image, root / "codecs/image", "patchvq", "image")
    captions = [one.record["caption"] for one in (*heard, *seen)]
    save_base(root / "base", [*generate_sentences(1, 200), *captions])
    space = write_token_space(root, root / "base")
    items = []
    encode = open_tokenizer_of(root / "base")
    for index, one in enumerate(heard):
        (codes,) = audio.encode([one.medium[None]])
        ids = space.audio_to_global(codes.codes)
        name = f"clotho:Sound {index // 2}.wav:{index % 2}" if index < 20 else f"audiocaps:{900 + index}"
        meta = audio_meta(codes.codes.shape[1])
        items.append(item(name, "a2t", index, ids, encode(one.record["caption"]), meta))
    for index, one in enumerate(seen):
        (codes,) = image.encode([one.medium])
        ids, text = space.image_to_global(codes), encode(one.record["caption"])
        meta = {"orig_size": [48, 48], "proc_size": [48, 48], "grid": [4, 4], "n_tokens": len(ids)}
        items.append(item(f"llava_pretrain:{index}", "i2t", index, ids, text, meta))
    # Two media that a small codec cannot tell apart would be a leak between train and test.
    items = list({one["ids"].tobytes(): one for one in items}.values())
    run = UpstreamRun(root, space, upstream_sha(space.to_json()), items)
    write_tars(run)
    write_jsonl(run)
    write_uti(root)
    return run


def item(name: str, task: str, index: int, ids: np.ndarray, text: list[int], meta: dict) -> dict[str, Any]:
    """`side`: pairs of one recording stay together: items 2k and 2k + 1."""
    side = "eval" if index // 2 % 3 == 0 else "train"
    return {"id": name, "task": task, "side": side, "ids": ids, "text": text, "meta": meta}


def audio_meta(frames: int) -> dict[str, Any]:
    return {
        "orig_sample_rate": 16000,
        "sample_rate": 16000,
        "channels": 1,
        "clip_seconds": 1.0,
        "n_codebooks": CODEBOOKS,
        "codebook_size": CODES,
        "n_frames": frames,
        "token_count": frames * CODEBOOKS,
        "codec_meta": {"nb_frames": 1, "frame_len": frames, "last_frame_pad_length": 0, "scales": [[[1.0]]]},
    }


def save_base(folder: Path, lines: list[str]) -> None:
    """A random Qwen3 of two layers with a byte-level tokenizer, as a model folder."""
    from mmpt.model.tiny import build_tiny

    train_tokenizer(lines, 300, folder)
    config = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    config |= dict(head_dim=8, intermediate_size=64, tie_word_embeddings=False)
    build_tiny(config, vocabulary_size(folder) + 20, 0).save_pretrained(folder)  # padded, as Qwen3's is


def open_tokenizer_of(folder: Path):
    """text -> ids."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def write_token_space(root: Path, base: Path) -> TokenSpace:
    """token_space.json and .sha256 by upstream's rule, places and time of creation included."""
    text = vocabulary_size(base)
    ranges, start = {}, 0
    sizes = {
        "TEXT": text,
        "SPECIAL": 64,
        "IMAGE": PATCHES,
        **{f"AUDIO_CB{k}": CODES for k in range(CODEBOOKS)},
    }
    for name, size in sizes.items():
        ranges[name] = {"start": start, "end": start + size - 1, "size": size}
        start += size
    content = {
        "version": "uti_v1",
        "created_utc": "2026-01-27T10:11:12Z",
        "base_text_model": "small/base",
        "text_vocab_size": text,
        "special_tokens": {f"<|{role}|>": text + i for i, role in enumerate(SPECIALS)},
        "ranges": ranges,
        "image_tokenizer": {"name_or_path": "patchvq", "local_path": "/data/x", "codebook_size": PATCHES},
        "audio_codec": {
            "name_or_path": "melrvq",
            "device": "cuda",
            "n_codebooks": CODEBOOKS,
            "codebook_size": CODES,
        },
        "vocab_size_total": start,
    }
    (root / "token_space.json").write_text(json.dumps(content, indent=2))
    (root / "token_space.sha256").write_text(upstream_sha(content) + "\n")
    return from_json(content)


def write_uti(root: Path) -> None:
    content = {
        "base_text_model": "small/base",
        "image_tokenizer": {"name_or_path": "patchvq", "image_size": 48, "codebook_size": PATCHES},
        "audio_codec": {
            "name_or_path": "melrvq",
            "n_codebooks": CODEBOOKS,
            "codebook_size": CODES,
            "target_sample_rate": 16000,
            "channels": 1,
            "clip_seconds": 1.0,
            "serialization": "flatten_by_time_interleaved_codebooks",
        },
        "token_space": {"n_special": 64, "special_tokens": [f"<|{role}|>" for role in SPECIALS]},
    }
    (root / "uti.yaml").write_text(yaml.safe_dump(content))


def record_json(run: UpstreamRun, one: dict[str, Any]) -> dict[str, Any]:
    """The .json member of a sample."""
    modality = "audio" if one["task"] == "a2t" else "image"
    tokens = {"text_in": 0, "text_out": len(one["text"]), "audio": 0, "image": 0, modality: len(one["ids"])}
    meta = {"audio": None, "image": None, "text": {"prompt_len": 0, "label_len": len(one["text"])}}
    return {
        "id": one["id"],
        "source": one["id"].split(":")[0],
        "task": one["task"],
        "token_space_sha256": one.get("sha", run.sha),
        "tokens": tokens,
        "meta": {**meta, modality: one["meta"], "source_meta": {"license_hint": "Clotho"}},
    }


def write_tars(run: UpstreamRun, per_shard: int = 16) -> None:
    """tokenized/{sounds,pictures}/{train,eval}/shard-%06d.tar"""
    for name, task in (("sounds", "a2t"), ("pictures", "i2t")):
        for side in ("train", "eval"):
            part = [one for one in run.items if one["task"] == task and one["side"] == side]
            folder = run.root / "tokenized" / name / side
            folder.mkdir(parents=True, exist_ok=True)
            for shard, start in enumerate(range(0, len(part), per_shard)):
                with tarfile.open(folder / f"shard-{shard:06d}.tar", "w") as archive:
                    for key, one in enumerate(part[start : start + per_shard], start):
                        write_sample(archive, f"{key:08d}", record_json(run, one), one)


def write_sample(archive: tarfile.TarFile, key: str, about: dict, one: dict[str, Any]) -> None:
    modality = "audio" if one["task"] == "a2t" else "image"
    members = {"json": json.dumps({**about, "__key__": key}).encode()}
    for name, ids in (("text_out", one["text"]), (modality, one["ids"])):
        if ids is not None:
            stream = io.BytesIO()
            objects = getattr(ids, "dtype", None) == np.dtype(object)
            np.save(stream, ids if objects else np.asarray(ids, np.int32))
            members[f"{name}.npy"] = stream.getvalue()
    for suffix, data in members.items():
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))


def write_jsonl(run: UpstreamRun) -> None:
    """stage3_{train,eval}.jsonl without digests; stage4_{train,eval}.jsonl with them, each pair both ways."""
    for side in ("train", "eval"):
        three, four = [], []
        for one in (one for one in run.items if one["side"] == side):
            common = {"id": one["id"], "source": one["id"].split(":")[0]}
            for task in (one["task"], one["task"][::-1]):
                built = build(run.space, task, one["text"], one["ids"])
                labels, ids = built.labels.tolist(), built.input_ids.tolist()
                row = {"input_ids": ids, "labels": labels, "length": len(ids), "task": task, **common}
                four.append({**row, "base_task": one["task"], "token_space_sha256": run.sha})
                if task == one["task"]:
                    three.append({**row, "crop": {}, "dataset": "x"})
        for stage, rows in (("stage3", three), ("stage4", four)):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (run.root / f"{stage}_{side}.jsonl").write_text(text)


def write_checkpoints(run: UpstreamRun) -> None:
    """checkpoint_24 (Stage 3), checkpoint_200 and lora_200 (Stage 4): rows of a small spread, bf16."""
    import torch

    generator = torch.Generator().manual_seed(3)

    def rows() -> Any:
        drawn = 0.02 * torch.randn(run.space.n_new, 32, generator=generator)
        return drawn.to(torch.bfloat16)

    for step in (24, 200):
        folder = run.root / f"checkpoint_{step}"
        folder.mkdir(exist_ok=True)
        about = {
            "row_start": run.space.new_start,
            "row_end": run.space.vocab_size_total,
            "base_llm": "small/base",
        }
        torch.save(
            {**about, "embeddings": rows(), "lm_head": rows(), "dtype": "torch.bfloat16"},
            folder / "trainable_rows.pt",
        )
        (folder / "token_space.json").write_text(json.dumps(run.space.to_json(), indent=2))
    write_lora(run)


def write_lora(run: UpstreamRun) -> None:
    """lora_200 as PEFT saves it after a resize: LoRA matrices, and both whole matrices."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(run.root / "base")
    model.resize_token_embeddings(run.space.vocab_size_total, mean_resizing=False)
    config = LoraConfig(
        r=LORA["r"],
        lora_alpha=LORA["alpha"],
        target_modules=LORA["target_modules"],
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    tuned = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    tuned.save_pretrained(run.root / "lora_200", save_embedding_layers=True)


__all__ = ["LORA", "UpstreamRun", "build_run", "open_tokenizer", "write_checkpoints"]
