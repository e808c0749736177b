"""Decoding: prompts and grammars in, ids out, valid by construction."""

from mmpt.generate.engine import Generated, generate, opened, reserve, unconstrained

__all__ = ["Generated", "generate", "opened", "reserve", "unconstrained"]
