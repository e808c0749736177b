"""CLIP and CLAP without storage (torch's device "meta"), on a batch as `clip.py` and `clap.py` give it to them.

Sizes are those of the config.json in the folder that the profile names, else those of transformers' own configurations:
openai/clip-vit-base-patch32 and laion/clap-htsat-unfused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmpt.evaluate import clap, clip

CLAP_WORDS = 77


def judges(scores: Mapping[str, Any]) -> dict[str, Callable[[], None]]:
    """By name, a call that judges one batch; of those that the profile's `evaluate.scores` names."""
    known = {"clip": ("CLIP", _clip), "clap": ("CLAP", _clap)}
    return {title: partial(run, scores[key]["path"]) for key, (title, run) in known.items() if key in scores}


@torch.inference_mode()
def _clip(path: str) -> None:
    from transformers import CLIPConfig, CLIPModel

    config = _config(CLIPConfig, path)
    words, side = config.text_config.max_position_embeddings, config.vision_config.image_size
    _made(CLIPModel, config)(
        input_ids=torch.zeros(clip.BATCH, words, dtype=torch.int64, device="meta"),
        attention_mask=torch.ones(clip.BATCH, words, dtype=torch.int64, device="meta"),
        pixel_values=torch.zeros(clip.BATCH, 3, side, side, device="meta"),
    )


@torch.inference_mode()
def _clap(path: str) -> None:
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    config, extractor = _config(ClapConfig, path), _config(ClapFeatureExtractor, path, "preprocessor_config.json")
    frames = extractor.nb_max_samples // extractor.hop_length + 1
    _made(ClapModel, config)(
        input_ids=torch.zeros(clap.BATCH, CLAP_WORDS, dtype=torch.int64, device="meta"),
        attention_mask=torch.ones(clap.BATCH, CLAP_WORDS, dtype=torch.int64, device="meta"),
        input_features=torch.zeros(clap.BATCH, 1, frames, config.audio_config.num_mel_bins, device="meta"),
        is_longer=torch.zeros(clap.BATCH, 1, dtype=torch.bool, device="meta"),
    )


def _config(kind: Any, path: str, file: str = "config.json") -> Any:
    folder = Path(path).expanduser()
    return kind.from_pretrained(folder) if (folder / file).is_file() else kind()


def _made(kind: Any, config: Any) -> nn.Module:
    with torch.device("meta"):
        return kind(config).eval()
