"""How well pictures fit captions, by a CLIP model of transformers: cosines of its embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmpt.evaluate.judge_model import open_judge, unit

BATCH = 32


@dataclass(frozen=True)
class Clip:
    """A CLIP model with its tokenizer and image processor."""

    model: Any
    tokenizer: Any
    processor: Any
    digest: str

    @staticmethod
    def open(path: str, device: str) -> Clip:
        """From a local folder or a hub id. Raises UserError that says what is missing."""
        from transformers import CLIPImageProcessor, CLIPModel

        model, tokenizer, folder, digest = open_judge(
            CLIPModel, path, device, key="evaluate.scores.clip.path", example="openai/clip-vit-base-patch32"
        )
        return Clip(model, tokenizer, CLIPImageProcessor.from_pretrained(folder), digest)

    def embeddings(self, pictures: Sequence[np.ndarray], captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Pictures uint8 [H, W, 3] and their captions as unit vectors, float32 [n, D] twice."""
        seen, said = [], []
        for at in range(0, len(pictures), BATCH):
            text = self.tokenizer(
                list(captions[at : at + BATCH]),
                padding=True,
                truncation=True,
                max_length=self.model.config.text_config.max_position_embeddings,
                return_tensors="pt",
            )
            pixels = self.processor(images=list(pictures[at : at + BATCH]), return_tensors="pt").pixel_values
            with torch.inference_mode():
                out = self.model(
                    input_ids=text.input_ids.to(self.model.device),
                    attention_mask=text.attention_mask.to(self.model.device),
                    pixel_values=pixels.to(self.model.device),
                )
            seen.append(unit(out.image_embeds))
            said.append(unit(out.text_embeds))
        return np.concatenate(seen), np.concatenate(said)
