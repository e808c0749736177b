"""A training run of seconds: in-memory examples of all tasks over the tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmpt.model.multimodal import MultimodalLM
from mmpt.shards.loader import Loader, make_loader
from mmpt.tokens.formats import Example, build, build_text
from mmpt.tokens.space import TokenSpace
from mmpt.train.settings import TrainSettings
from tests.model.tiny_model import CODES, IMAGE, LORA, small_model, small_space

WEIGHTS = {"a2t": 0.25, "i2t": 0.25, "t2a": 0.25, "t2i": 0.25}
ROW = 48


class Examples:
    """Examples of one kind held in memory; a caption's first id decides its codes, so there is something to
    learn.
    """

    def __init__(self, space: TokenSpace, kind: str, count: int = 40, seed: int = 0):
        rng = np.random.default_rng([seed, len(kind), ord(kind[0])])
        self.space, self.kind, self.identity = space, kind, f"{kind}-{count}-{seed}"
        self.has_prompt = kind in ("t2a", "t2i")
        self.texts = [rng.integers(0, 50, rng.integers(3, 7)).astype(np.int32) for _ in range(count)]
        self.payloads = [self._payload(int(text[0])) for text in self.texts]
        self.lengths = np.array([len(self.draw(i).input_ids) for i in range(count)], np.int32)

    def _payload(self, key: int) -> np.ndarray:
        if self.kind[-1] == "i" or self.kind[0] == "i":
            return self.space.image_to_global((np.arange(6) + key) % IMAGE)
        return self.space.audio_to_global((np.arange(8).reshape(2, 4) + key) % CODES)

    def __len__(self) -> int:
        return len(self.texts)

    def draw(self, index: int, empty_prompt: bool = False) -> Example:
        if self.kind == "text":
            return build_text(self.space, self.texts[index])
        return build(self.space, self.kind, [] if empty_prompt else self.texts[index], self.payloads[index])


def small_loader(
    space: TokenSpace,
    steps: int,
    *,
    seed: int = 0,
    tokens: int = 160,
    ramp: float = 0.0,
    replay: float = 0.1,
    weights=WEIGHTS,
) -> Loader:
    kinds = (*weights, "text") if replay else tuple(weights)
    return make_loader(
        {kind: Examples(space, kind) for kind in kinds},
        weights=weights,
        text_replay=replay,
        ramp=ramp,
        steps=steps,
        tokens_per_step=tokens,
        row_len=ROW,
        pad_id=space.special("pad_mm"),
        prompt_dropout=0.2,
        seed=seed,
    )


def small_settings(steps: int, **changes) -> TrainSettings:
    numbers = dict(lr={"lora": 5e-3, "embed": 1e-2, "head": 1e-2}, warmup_steps=2, log_every=3, save_every=4, clip=5.0)
    return TrainSettings(steps, **{**numbers, **changes})


def fresh(folder: Path, **changes) -> MultimodalLM:
    """The same model every time; with LoRA dropout where asked, so that the random state matters."""
    lora = {**LORA, "dropout": changes.pop("dropout", 0.0)}
    return small_model(folder, lora=lora, **changes)


__all__ = ["Examples", "fresh", "small_loader", "small_settings", "small_space"]
