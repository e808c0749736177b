"""Small random audio codecs of transformers, written as they are published: config.json and model.safetensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmpt.codecs import registry

HUBERT = dict(
    model_type="hubert",
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    conv_dim=(8,) * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=2,
)
BERT = dict(
    model_type="wav2vec2-bert",
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    output_hidden_size=16,
)
ACOUSTIC = dict(model_type="dac", encoder_hidden_size=4, decoder_hidden_size=32, hidden_size=16)
FSQ = dict(
    hidden_size=64,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=8,
    encoder_hidden_size=4,
    quantization_dim=80,
    quantization_levels=[4, 4, 4],
    semantic_model_config=BERT,
)


def _dac(t: Any) -> Any:
    """With strides of 5, where its decode is shorter than its frames."""
    return t.DacModel(
        t.DacConfig(
            encoder_hidden_size=4,
            decoder_hidden_size=32,
            downsampling_ratios=[2, 4, 5, 8],
            n_codebooks=4,
            codebook_size=64,
            codebook_dim=4,
            sampling_rate=24_000,
        )
    )


def _mimi(t: Any) -> Any:
    return t.MimiModel(
        t.MimiConfig(
            hidden_size=16,
            num_filters=4,
            codebook_size=64,
            codebook_dim=8,
            num_quantizers=4,
            vector_quantization_hidden_dimension=8,
            num_hidden_layers=1,
            intermediate_size=16,
            num_attention_heads=2,
            num_key_value_heads=2,
            upsample_groups=16,
        )
    )


def _xcodec(t: Any) -> Any:
    """0.3 kbps a codebook: 50 frames of 6 bits."""
    bandwidths = [0.3, 0.6, 1.2]
    return t.XcodecModel(
        t.XcodecConfig(
            acoustic_model_config=ACOUSTIC,
            semantic_model_config=HUBERT,
            codebook_size=64,
            target_bandwidths=bandwidths,
        )
    )


def _higgs(t: Any) -> Any:
    """24 kHz beside a semantic model of 16 kHz, and 25 frames per second, as published."""
    strides = [8, 5, 4, 2, 3]
    return t.HiggsAudioV2TokenizerModel(
        t.HiggsAudioV2TokenizerConfig(
            acoustic_model_config={**ACOUSTIC, "downsampling_ratios": strides, "upsampling_ratios": strides},
            semantic_model_config=HUBERT,
            codebook_size=64,
            codebook_dim=8,
            target_bandwidths=[0.15, 0.3, 0.6],
        )
    )


def _xcodec2(t: Any) -> Any:
    return t.Xcodec2Model(t.Xcodec2Config(**FSQ))


def _neucodec(t: Any) -> Any:
    return t.NeuCodecModel(t.NeuCodecConfig(**FSQ))


def _wavtokenizer(t: Any) -> Any:
    return t.WavTokenizerModel(
        t.WavTokenizerConfig(
            num_filters=4,
            hidden_size=16,
            codebook_dim=16,
            codebook_size=64,
            decoder_hidden_size=32,
            decoder_intermediate_size=32,
            decoder_num_layers=1,
            num_lstm_layers=1,
            decoder_attention_num_groups=4,
        )
    )


MODELS: dict[str, Callable[[Any], Any]] = {
    "dac": _dac,
    "mimi": _mimi,
    "xcodec": _xcodec,
    "higgs_audio_v2_tokenizer": _higgs,
    "xcodec2": _xcodec2,
    "neucodec": _neucodec,
    "wavtokenizer": _wavtokenizer,
}


def write_transformers(name: str, folder: Path) -> None:
    """A model of `MODELS`, whose codebooks are drawn from what its encoder gives for noise, so that codes vary."""
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MODELS[name](transformers).eval()
    model.save_pretrained(folder)
    for key, tensor in model.named_parameters():
        if key.endswith("bias") and "encoder" in key:  # untrained biases drown the signal
            tensor.data.zero_()
    books = [module for module in model.modules() if hasattr(module, "quantize") and hasattr(module, "codebook_size")]
    for book in books:
        book.quantize = partial(_fit, book, book.quantize)
    levels = [module for key, module in model.named_modules() if key.endswith("project_in")]
    hooks = [one.register_forward_pre_hook(_spread) for one in levels]
    codec = registry.create_audio({"name": "transformers", "path": str(folder)})
    codec.network = model
    codec.encode([sound(codec.encode_rate, 2.0)])
    for book in books:
        del book.quantize
    for hook in hooks:
        hook.remove()
    model.save_pretrained(folder)


def _fit(book: Any, quantize: Callable[[torch.Tensor], torch.Tensor], vectors: torch.Tensor) -> torch.Tensor:
    """What `quantize` gives after the codebook was filled from the vectors that are to be quantized."""
    rows = vectors[torch.randint(len(vectors), (book.codebook_size,))]
    rows = rows + 0.1 * vectors.std() * torch.randn(rows.shape)
    (book.embed_sum if hasattr(book, "embed_sum") else book.embed).copy_(rows)
    return quantize(vectors)


def _spread(project: torch.nn.Linear, given: tuple[torch.Tensor, ...]) -> None:
    """Let what a linear layer gives for this input have mean 0 and standard deviation 1."""
    found = torch.nn.functional.linear(given[0], project.weight).flatten(0, -2)
    project.weight.data.div_(found.std(0)[:, None])
    project.bias.data.copy_(-found.mean(0) / found.std(0))


def sound(rate: int, seconds: float, seed: int = 0) -> np.ndarray:
    """float32 [1, samples]: tones and bursts of noise that change ten times a second."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(rate * seconds)) / rate
    part = (10 * time).astype(int)
    pitch, loud, rough = (rng.uniform(*span, part.max() + 1)[part] for span in ((100, 3000), (0.01, 0.5), (0, 0.3)))
    return (loud * np.sin(2 * np.pi * pitch * time) + rough * rng.normal(size=len(time)))[None].astype(np.float32)
