"""Decoding by `transformers.generate` over the whole vocabulary with a mask: the engine must give the same ids."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from transformers import LogitsProcessorList

from mmpt.bench.generate_peers import GrammarMask
from mmpt.generate.engine import Generated
from mmpt.tokens.grammar import Grammar


@torch.no_grad()
def reference_generate(
    causal_lm, prompts: Sequence[np.ndarray], grammars: Sequence[Grammar], *, pad_id: int
) -> list[Generated]:
    """Greedy decoding of one batch by `causal_lm.generate`; `legal_mass` is not measured (NaN).

    `causal_lm`: a transformers model whose head covers the whole token space.
    """
    width = max(len(prompt) for prompt in prompts)
    ids = np.full((len(prompts), width), pad_id, np.int64)
    attended = np.zeros((len(prompts), width), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :], attended[row, width - len(prompt) :] = prompt, 1
    out = causal_lm.generate(
        torch.as_tensor(ids),
        attention_mask=torch.as_tensor(attended),
        do_sample=False,
        num_beams=1,
        max_new_tokens=max(grammar.max_len for grammar in grammars) + 1,
        eos_token_id=grammars[0].end_id,
        pad_token_id=pad_id,
        logits_processor=LogitsProcessorList([GrammarMask(grammars, width)]),
    )[:, width:].numpy()
    results = []
    for grammar, row in zip(grammars, out, strict=True):
        end = int(np.flatnonzero(row == grammar.end_id)[0])
        chosen = end < grammar.max_len or grammar.min_len == grammar.max_len
        results.append(Generated(row[:end].astype(np.int32), chosen, float("nan")))
    return results


class WholeHead(torch.nn.Module):
    """A head over base and new rows, in the place where transformers looks for one."""

    def __init__(self, model):
        super().__init__()
        weight_base, weight_new = model.head()
        self.weight = torch.nn.Parameter(torch.cat([weight_base.float(), weight_new.float()]), requires_grad=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.float() @ self.weight.T


def as_causal_lm(model):
    """A copy of a MultimodalLM as a transformers model with one head over the whole token space."""
    causal = copy.deepcopy(model.lm.get_base_model()).eval()
    causal.lm_head = WholeHead(model)
    return causal
