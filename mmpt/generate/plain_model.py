"""Adapts any transformers causal LM to the engine: hidden states, and the rows of the head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmpt.model import attention

PARITY = 1e-3  # a head that is a plain matrix product gives the model's own logits to rounding


class PlainModel:
    """A causal LM of transformers whose head is one matrix over the whole token space, e.g. a merged export.

    Args:
        causal_lm: on its device, in its dtype; it is put into eval mode.

    Raises:
        ValueError: logits that are more than hidden states times the head's matrix (a bias, a scale, a cap).
    """

    def __init__(self, causal_lm: nn.Module):
        causal: Any = causal_lm.eval()
        self.decoder: Any = causal.get_decoder()
        self.weight: Tensor = causal.get_output_embeddings().weight
        self.config = causal.config
        self.dtype, self.device = self.weight.dtype, self.weight.device
        probe = torch.arange(2, device=self.device)[None]
        with torch.no_grad():
            expected = causal(input_ids=probe).logits.float()
            found = (self.decoder(input_ids=probe).last_hidden_state @ self.weight.T).float()
        apart = float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-12))
        if not apart <= max(PARITY, 8 * torch.finfo(self.dtype).eps):
            raise ValueError(
                f"the logits of {type(causal).__name__} differ from hidden states times its head by {apart:.3g} of the "
                "largest: a head with a bias, a scale or a cap cannot be decoded by rows"
            )

    def head(self) -> tuple[Tensor, None]:
        """(rows [V, H] of the output matrix, no further ones)."""
        return self.weight, None

    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
    ) -> Tensor:
        """Last hidden states [B, L, H] of ids int64 [B, L]; the arguments are those of transformers' models."""
        return self.decoder(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=attention_mask,
            **attention.cached(self.decoder, past_key_values),
        ).last_hidden_state
