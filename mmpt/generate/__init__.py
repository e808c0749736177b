"""Decoding: prompts and grammars in, ids out, valid by construction."""

from mmpt.generate.engine import Generated, generate, opened, reserve, unconstrained
from mmpt.generate.plain_model import PlainModel

__all__ = ["Generated", "PlainModel", "generate", "opened", "reserve", "unconstrained"]
