"""Small EncodecModels of both published geometries, in the published folder layout; and a corpus of twelve media."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmpt.store.jsonl import write_jsonl
from mmpt.store.stage import SliceView, StageContext

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


@dataclass
class TinyCorpus:
    """Six pictures and six sounds in a folder; the last two of each are test."""

    root: Path
    work: Path
    manifest: list[dict[str, Any]]
    split: list[dict[str, Any]]

    def run(
        self, body: Callable[[StageContext], None], sections: Mapping[str, Any], name: str = "one", only: str = ""
    ) -> Path:
        """The output of stage codecs for these profile sections, on one modality or both."""
        base = self.work / name
        for folder in ("corpus", "manifest", "split", "codecs"):
            (base / folder).mkdir(parents=True)
        rows = [row for row in self.manifest if only in ("", row["modality"])]
        write_jsonl(base / "manifest/manifest.jsonl", rows)
        write_jsonl(base / "split/split.jsonl", self.split)
        inputs = {stage: base / stage for stage in ("corpus", "manifest", "split")}
        view = SliceView({"codecs": sections}, ("codecs",), "codecs")
        external = {"real": self.root}
        body(StageContext("codecs", view, inputs, base / "codecs", self.work, external=external))
        return base / "codecs"


@pytest.fixture
def tiny_corpus(tmp_path) -> TinyCorpus:
    root = tmp_path / "media"
    root.mkdir()
    rng = np.random.default_rng(0)
    manifest, split = [], []
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / f"p{i}.png")
        soundfile.write(root / f"s{i}.wav", rng.standard_normal(16_000) * 0.1, 16_000)
        for modality, file in (("image", f"p{i}.png"), ("audio", f"s{i}.wav")):
            manifest.append({"id": file, "modality": modality, "media": {"root": "real", "path": file}})
            split.append({"id": file, "split": "test" if i > 3 else "train"})
    return TinyCorpus(root, tmp_path, manifest, split)
