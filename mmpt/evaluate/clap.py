"""How well sounds fit captions, by a CLAP model of transformers: cosines of its embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmpt.codecs.media import convert
from mmpt.evaluate.judge_model import open_judge, unit

BATCH = 16


@dataclass(frozen=True)
class Clap:
    """A CLAP model with its tokenizer and feature extractor."""

    model: Any
    tokenizer: Any
    extractor: Any
    digest: str

    @staticmethod
    def open(path: str, device: str) -> Clap:
        """From a local folder or a hub id. Raises UserError that says what is missing."""
        from transformers import ClapFeatureExtractor, ClapModel

        model, tokenizer, folder, digest = open_judge(
            ClapModel, path, device, key="evaluate.scores.clap.path", example="laion/clap-htsat-unfused"
        )
        return Clap(model, tokenizer, ClapFeatureExtractor.from_pretrained(folder), digest)

    def embeddings(
        self, sounds: Sequence[tuple[np.ndarray, int]], captions: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sounds (float32 [C, T], rate) and their captions as unit vectors, float32 [n, D] twice.

        A sound longer than the model hears (10 s) is cut to its beginning: a random cut, the extractor's own default,
        would give another number each time.
        """
        rate = self.extractor.sampling_rate
        waves = [convert(wave, own, rate, 1)[0][: self.extractor.nb_max_samples] for wave, own in sounds]
        heard, said = [], []
        for at in range(0, len(waves), BATCH):
            text = self.tokenizer(
                list(captions[at : at + BATCH]),
                padding=True,
                truncation=True,
                max_length=77,
                return_tensors="pt",
            )
            features = self.extractor(waves[at : at + BATCH], sampling_rate=rate, return_tensors="pt")
            with torch.inference_mode():
                out = self.model(
                    input_ids=text.input_ids.to(self.model.device),
                    attention_mask=text.attention_mask.to(self.model.device),
                    input_features=features.input_features.to(self.model.device),
                    # None is longer: they were cut. The extractor marks one at random, for training's sake.
                    is_longer=torch.zeros_like(features.is_longer).to(self.model.device),
                )
            heard.append(unit(out.audio_embeds))
            said.append(unit(out.text_embeds))
        return np.concatenate(heard), np.concatenate(said)
