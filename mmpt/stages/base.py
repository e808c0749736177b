"""Stage base: the text model that everything starts from. Profile keys it reads: base."""

from __future__ import annotations

import shutil
import time
from typing import Any

import torch
from torch import nn

from mmpt.model.base import copy_pretrained, make_tiny
from mmpt.model.isolation import require_isolation
from mmpt.model.loading import load_causal_lm
from mmpt.model.multimodal import MultimodalLM, check_base, probe_lora
from mmpt.model.tiny import Pretraining
from mmpt.shards.text_set import encode_lines, open_tokenizer
from mmpt.store.canonical import write_json
from mmpt.store.digests import sha256_file
from mmpt.store.stage import StageContext
from mmpt.tokens.space import TokenSpace, load


def base(ctx: StageContext) -> None:
    """Makes or copies the base model: model/ (a Hugging Face folder with its tokenizer), base.json."""
    space, folder = load(ctx.inputs["token_space"]), ctx.out / "model"
    kind = ctx.profile["base.kind"]
    report = {"kind": kind, "name": space.base_text_model, "token_space": space.digest, "pretraining": None}
    if kind == "tiny":
        report |= _tiny(ctx, folder, space)
    else:
        copy_pretrained(folder, ctx.profile["base.path"], ctx.profile.get("base.gguf_file"), getattr(torch, ctx.dtype))
    model = load_causal_lm(folder, getattr(torch, ctx.dtype))
    check_base(model, space, "base.path" if kind == "pretrained" else "base.config")
    report |= {
        "architecture": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary_rows": model.get_input_embeddings().num_embeddings,
        "text_vocab_size": space.text_vocab_size,
        "hidden_size": model.get_input_embeddings().embedding_dim,
        "tied": model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        "weights": {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))},
    }
    report["packing"] = _isolation(model, space, ctx)
    for path in sorted((ctx.inputs["token_space"] / "tokenizer").iterdir()):
        shutil.copyfile(path, folder / path.name)
    write_json(ctx.out / "base.json", report)


def _isolation(causal: nn.Module, space: TokenSpace, ctx: StageContext) -> dict[str, Any]:
    """The packing test on the base with LoRA that changes nothing, as training runs it; it changes `causal`.

    Raises:
        UserError: packed sequences of this base change each other, or it does not run on them.
    """
    where = str(ctx.profile.get("base.path", "base.config"))
    model = MultimodalLM.around(causal, space, probe_lora(causal), seed=ctx.seed)
    return require_isolation(model, where, ctx.seed).to_json()


def _tiny(ctx: StageContext, folder, space) -> dict:
    source, tokenizer = ctx.inputs["token_space"], open_tokenizer(ctx.inputs["token_space"])
    train, heldout = (encode_lines(source / f"text_{part}.txt", tokenizer, space) for part in ("train", "heldout"))
    plan = ctx.profile.get("base.pretrain")
    settings = Pretraining(plan["steps"], plan["lr"], plan["tokens_per_step"]) if plan and plan["steps"] else None
    began = time.monotonic()

    def on_step(step: int, loss: float) -> None:
        done, steps = step + 1, plan["steps"]
        ctx.progress(done, steps, f"loss {loss:.3f}")
        if done % 50 == 0 or done == steps:
            speed = done / (time.monotonic() - began)
            ctx.log(f"step {done}/{steps}: loss {loss:.4f}, {speed:.1f} steps/s")

    report = make_tiny(
        folder, space, ctx.profile["base.config"], settings, train, heldout, seed=ctx.seed, on_step=on_step
    )
    seconds = time.monotonic() - began
    ctx.info(seconds=seconds, tokens_per_second=report["pretraining"]["tokens"] / seconds)
    learned = report["pretraining"]
    ctx.log(
        f"held-out text: {learned['heldout_nll_before']:.3f} -> {learned['heldout_nll']:.3f} nats per token, "
        f"unigram {learned['unigram_nll']:.3f}"
    )
    return report
