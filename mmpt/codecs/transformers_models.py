"""The audio codecs of transformers as a table: what differs between their classes, and nothing else.

Read in transformers 5.24: names of rates and sizes in the configuration, how many codebooks are asked for, what
`encode` takes beside the wave, where the codebooks are. EnCodec is not here: its chunks and gains have a codec of
their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

FBANK = {"xcodec2": True, "neucodec": False}
"""Model type -> whether half a frame of silence is put before and behind a wave before its log-mel features are taken.
Both classes take such features beside the wave."""


@dataclass(frozen=True)
class Sizes:
    """What a configuration says.

    encode_rate, sample_rate: samples per second of what `encode` takes and `decode` gives. hop: samples of a frame at
    `encode_rate`. n_codebooks: that the weights hold.
    """

    encode_rate: int
    sample_rate: int
    hop: int
    n_codebooks: int
    codebook_size: int


@dataclass(frozen=True)
class Kind:
    """One class of transformers.

    Args:
        model: its name. sizes: of a configuration. depth: keyword arguments by which `encode` gives at least so many
            codebooks, from (configuration, number).
        lead: samples of silence behind a wave before it is filled up to whole frames, as the class's feature extractor
            has them; NeuCodec's features lose a frame, so it gets one more. None: the encoder fills up by itself.
        vectors: the float [codes, D] vectors of codebook k, from (model, k).
        package: that its module imports beside torch.
    """

    model: str
    sizes: Callable[[Any], Sizes]
    depth: Callable[[Any, int], Mapping[str, Any]]
    vectors: Callable[[Any, int], torch.Tensor]
    lead: int | None = 0
    package: str = ""


def bandwidth(config: Any, n_codebooks: int) -> float:
    """The lowest target bandwidth (kbps) of an X-Codec with this number of codebooks, by the rule of its quantizer."""
    each = math.log2(config.codebook_size) * config.frame_rate / 1000
    for one in sorted(config.target_bandwidths):
        if max(1, math.floor(one / each)) >= n_codebooks:
            return one
    raise ValueError(f"no bandwidth of {list(config.target_bandwidths)} kbps has {n_codebooks} codebooks")


def _dac(config: Any) -> Sizes:
    return Sizes(
        config.sampling_rate, config.sampling_rate, config.hop_length, config.n_codebooks, config.codebook_size
    )


def _mimi(config: Any) -> Sizes:
    rate = config.sampling_rate
    return Sizes(rate, rate, round(rate / config.frame_rate), config.num_quantizers, config.codebook_size)


def _xcodec(config: Any) -> Sizes:
    return Sizes(config.sample_rate, config.sample_rate, config.hop_length, config.num_quantizers, config.codebook_size)


def _xcodec2(config: Any) -> Sizes:
    levels = int(np.prod(config.quantization_levels))
    return Sizes(config.sampling_rate, config.sampling_rate, config.hop_length, 1, levels)


def _neucodec(config: Any) -> Sizes:
    levels = int(np.prod(config.quantization_levels))
    return Sizes(config.input_sampling_rate, config.output_sampling_rate, config.encoder_hop_length, 1, levels)


def _wavtokenizer(config: Any) -> Sizes:
    return Sizes(config.sampling_rate, config.sampling_rate, config.hop_length, 1, config.codebook_size)


def _dac_vectors(model: Any, k: int) -> torch.Tensor:
    return model.quantizer.quantizers[k].codebook.weight


def _mimi_vectors(model: Any, k: int) -> torch.Tensor:
    split = model.quantizer
    first = split.num_semantic_quantizers
    semantic, acoustic = split.semantic_residual_vector_quantizer, split.acoustic_residual_vector_quantizer
    return (semantic.layers[k] if k < first else acoustic.layers[k - first]).codebook.embed


def _one(config: Any, n_codebooks: int) -> Mapping[str, Any]:
    return {}


def _levels(model: Any, k: int) -> torch.Tensor:
    return model.quantizer.quantizer.codebook


def _by_bandwidth(config: Any, n_codebooks: int) -> Mapping[str, Any]:
    return {"bandwidth": bandwidth(config, n_codebooks)}


def _euclidean(model: Any, k: int) -> torch.Tensor:
    return model.quantizer.quantizers[k].codebook.embed


KINDS: dict[str, Kind] = {
    "dac": Kind("DacModel", _dac, lambda c, n: {"n_quantizers": n}, _dac_vectors),
    "mimi": Kind("MimiModel", _mimi, lambda c, n: {"num_quantizers": n}, _mimi_vectors, lead=None),
    "xcodec": Kind("XcodecModel", _xcodec, _by_bandwidth, _euclidean),
    "higgs_audio_v2_tokenizer": Kind(
        "HiggsAudioV2TokenizerModel", _xcodec, _by_bandwidth, _euclidean, package="torchaudio"
    ),
    "xcodec2": Kind("Xcodec2Model", _xcodec2, _one, _levels, lead=1),
    "neucodec": Kind("NeuCodecModel", _neucodec, _one, _levels, lead=320),
    "wavtokenizer": Kind(
        "WavTokenizerModel", _wavtokenizer, _one, lambda m, k: m.encoder_model.quantizer.codebook.embed, lead=None
    ),
}
"""Model type, as config.json has it -> its class."""
CONTINUOUS = ("pocket_tts_audio_tokenizer", "vibevoice_acoustic_tokenizer")
"""Audio tokenizers of transformers without codes: their latents are continuous."""
