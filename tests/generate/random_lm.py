"""A random Qwen3 seen as the engine sees a model: hidden states, and a head cut after the text rows."""

from dataclasses import dataclass

import torch
from transformers import Qwen3ForCausalLM

TEXT = 50  # rows of the base vocabulary


@dataclass
class RandomLM:
    """Random weights, spread so that greedy decoding does not settle on one id; the head is cut after the
    text rows.
    """

    lm: Qwen3ForCausalLM
    dtype: torch.dtype = torch.float32

    @property
    def config(self):
        return self.lm.config

    def head(self):
        weight = self.lm.lm_head.weight
        return weight[:TEXT], weight[TEXT:]

    def hidden(self, input_ids, position_ids, attention_mask=None, past_key_values=None):
        return self.lm.model(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=past_key_values is not None,
        ).last_hidden_state
