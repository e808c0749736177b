"""Small EnCodec weights, made once; and a corpus of twelve media."""

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
from tests.codecs.forked_contract import forked_contract
from tests.codecs.small_weights import write_encodec


@pytest.fixture(scope="session")
def encodec_folder(tmp_path_factory) -> Callable[[str], Path]:
    """encodec_folder("24k" or "48k"): a folder with config.json and model.safetensors, made once."""
    made: dict[str, Path] = {}

    def folder(geometry: str) -> Path:
        if geometry not in made:
            made[geometry] = tmp_path_factory.mktemp(f"encodec_{geometry}")
            write_encodec(geometry, made[geometry])
        return made[geometry]

    return folder


@dataclass
class TinyCorpus:
    """Six pictures and six sounds in a folder; the last two of each are test."""

    root: Path
    work: Path
    manifest: list[dict[str, Any]]
    split: list[dict[str, Any]]

    def run(
        self,
        body: Callable[[StageContext], None],
        sections: Mapping[str, Any],
        name: str = "one",
        only: str = "",
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
        with forked_contract():
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
