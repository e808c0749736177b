"""A token space and a base folder small enough for a test, made anew wherever they are asked for."""

from __future__ import annotations

from pathlib import Path

import torch

from mmpt.model.multimodal import MultimodalLM
from mmpt.model.tiny import build_tiny
from mmpt.tokens.space import TokenSpace, build_token_space

TEXT, SPECIAL, IMAGE, CODEBOOKS, CODES = 50, 16, 12, 2, 6
LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj", "down_proj"]}


def small_space(**changes) -> TokenSpace:
    """50 text ids, 16 specials, 12 image codes, 2 codebooks of 6; `changes` to the audio codec."""
    return build_token_space(
        base_text_model="tiny",
        text_vocab_size=TEXT,
        n_special=SPECIAL,
        image_tokenizer={"name": "p", "codebook_size": IMAGE, "tokens_per_image": 6},
        audio_codec={"name": "m", "n_codebooks": CODEBOOKS, "codebook_size": CODES, **changes},
    )


def save_base(folder: Path, *, tied: bool = True, padded_to: int = TEXT, seed: int = 0) -> Path:
    """A random two-layer Qwen3 with `padded_to` embedding rows."""
    config = dict(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=24,
        tie_word_embeddings=tied,
    )
    build_tiny(config, padded_to, seed).save_pretrained(folder)
    return folder


def small_model(folder: Path, *, tied: bool = True, padded_to: int = TEXT, **changes) -> MultimodalLM:
    """A model over `save_base`, its adapter moved off the start values so that it does something."""
    base = save_base(folder, tied=tied, padded_to=padded_to)
    arguments = {"lora": LORA, "seed": 1, **changes}
    space = arguments.pop("space", None) or small_space()
    model = MultimodalLM.from_base(base, space, arguments.pop("lora"), **arguments)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.adapter_parameters().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model
