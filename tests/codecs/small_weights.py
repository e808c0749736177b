"""Small random weights in the published layouts: EnCodec of both geometries, and LlamaGen's tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch

from mmpt.codecs.llamagen_modules import Sizes, VqModel

SMALL = dict(hidden_size=16, num_filters=4, num_lstm_layers=1, codebook_size=64, codebook_dim=16)
GEOMETRIES = {
    # six bits a code: 4 codebooks are 4 * 75 * 6 = 1.8 kbps here, 3.6 kbps at 48 kHz
    "24k": dict(sampling_rate=24_000, audio_channels=1, normalize=False, target_bandwidths=[0.9, 1.8, 3.6]),
    "48k": dict(
        sampling_rate=48_000,
        audio_channels=2,
        normalize=True,
        chunk_length_s=1.0,
        overlap=0.01,
        norm_type="time_group_norm",
        use_causal_conv=False,
        target_bandwidths=[1.8, 3.6, 7.2],
    ),
}
# Spread of the drawn codebooks: like that of the untrained encoder's output, so that many codes occur.
SPREAD = {"24k": 0.001, "48k": 0.5}
LLAMAGEN = Sizes(codebook=128, code_dim=8, latent=32, base=32, widths=(32, 32, 64), encoder_blocks=1)


def write_encodec(geometry: str, folder: Path) -> None:
    """config.json and model.safetensors of an EncodecModel; `geometry` is "24k" or "48k"."""
    from transformers import EncodecConfig, EncodecModel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = EncodecModel(EncodecConfig(**SMALL, **GEOMETRIES[geometry]))
    for name, parameter in model.encoder.named_parameters():
        if "bias" in name:  # untrained biases drown the signal
            torch.nn.init.zeros_(parameter)
    draw = torch.Generator().manual_seed(0)
    for name, buffer in model.named_buffers():
        if name.endswith("codebook.embed"):  # zeros as built: every code would be 0
            buffer.copy_(torch.randn(buffer.shape, generator=draw) * SPREAD[geometry])
    model.save_pretrained(folder)


def write_llamagen(file: Path) -> None:
    """vq_ds16_t2i.pt as published: tensors under "model", and a buffer that only training reads."""
    torch.manual_seed(0)
    model = VqModel(LLAMAGEN)
    torch.nn.init.normal_(model.quant_conv.weight, std=1.0)
    state = {**model.state_dict(), "quantize.codebook_used": torch.zeros(65536)}
    torch.save({"model": state, "steps": 3}, file)
