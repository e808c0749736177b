"""Decoding: prompts and grammars in, ids out, valid by construction."""

from mmpt.generate.engine import Generated, generate, opened, unconstrained

__all__ = ["Generated", "generate", "opened", "unconstrained"]
