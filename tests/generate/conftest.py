"""A random Qwen3 small enough to decode hundreds of sequences in seconds, seen as the engine sees a model."""

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from mmpt.tokens import TokenSpace, build_token_space, grammar, prompt
from tests.generate.random_lm import TEXT, RandomLM

FRAMES, PICTURE = 5, 8


@pytest.fixture(scope="session")
def space() -> TokenSpace:
    return build_token_space(
        base_text_model="tiny",
        text_vocab_size=TEXT,
        n_special=12,
        image_tokenizer={"codebook_size": 20},
        audio_codec={"n_codebooks": 3, "codebook_size": 15},
    )


@pytest.fixture(scope="session")
def model(space) -> RandomLM:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=space.vocab_size_total,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
        tie_word_embeddings=False,
    )
    lm = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5.0)
    return RandomLM(lm)


@pytest.fixture(scope="session")
def items(space):
    """items(task) -> prompts of unlike lengths and their grammars, exact and learned lengths mixed."""

    def make(task: str):
        rng = np.random.default_rng(len(task))
        prompts, grammars = [], []
        for n in (1, 3, 7, 4, 9):
            source = {
                "t2a": lambda n=n: rng.integers(0, TEXT, n),
                "t2i": lambda n=n: rng.integers(0, TEXT, n),
                "a2t": lambda n=n: space.audio_to_global(rng.integers(0, 15, (3, n))),
                "i2t": lambda: space.image_to_global(rng.integers(0, 20, PICTURE)),
            }[task]()
            prompts.append(prompt(space, task, source))
            frames = FRAMES if n < 5 else (1, 7)
            grammars.append(grammar(space, task, frames=frames, tokens_per_image=PICTURE, text=(1, 12)))
        return prompts, grammars

    return make
