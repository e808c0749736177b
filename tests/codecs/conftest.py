"""Small EncodecModels of both published geometries, in the published folder layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def encodec_folder(tmp_path_factory) -> Callable[[str], Path]:
    """encodec_folder("24k" or "48k"): a folder with config.json and model.safetensors, made once."""
    made: dict[str, Path] = {}

    def folder(geometry: str) -> Path:
        if geometry not in made:
            made[geometry] = tmp_path_factory.mktemp(f"encodec_{geometry}")
            _save(geometry, made[geometry])
        return made[geometry]

    return folder


def _save(geometry: str, folder: Path) -> None:
    import torch
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
