"""Published shapes of the dense Qwen3, to size a run before its weights are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MATRIX_ROWS = 151_936  # of the embedding: the tokenizer's ids and padding
TOKENIZER_IDS = 151_669  # of them 26 added tokens

# size: hidden, layers, query heads, mlp, tied, parameters (a tied matrix counts once)
_SIZES = {
    "0.6B": (1024, 28, 16, 3072, True, 596_049_920),
    "1.7B": (2048, 28, 16, 6144, True, 1_720_574_976),
    "4B": (2560, 36, 32, 9728, True, 4_022_468_096),
    "8B": (4096, 36, 32, 12288, False, 8_190_735_360),
}
SIZES = tuple(_SIZES)


def shape(size: str) -> dict[str, Any]:
    """config.json of a size (see SIZES), as far as it decides shapes and numbers."""
    hidden, layers, heads, mlp, tied, _ = _SIZES[size]
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": MATRIX_ROWS,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": mlp,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 40_960,
        "rope_theta": 1_000_000,
        "attention_bias": False,
        "use_sliding_window": False,
        "tie_word_embeddings": tied,
        "bos_token_id": 151_643,
        "eos_token_id": 151_645,
    }


def parameters(size: str) -> int:
    """How many a size has."""
    return _SIZES[size][-1]


def named(path: str) -> str | None:
    """The size that a folder or hub id names, e.g. 8B of Qwen/Qwen3-8B-Base; None where it names none."""
    parts: Mapping[str, None] = dict.fromkeys(path.rstrip("/").rsplit("/", 1)[-1].split("-"))
    return next((size for size in SIZES if size in parts), None) if "Qwen3" in parts else None
