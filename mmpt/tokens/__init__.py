"""Token ids: the shared vocabulary, the four sequence formats and the decode grammar. numpy only."""

from mmpt.store.tasks import TASKS
from mmpt.tokens.formats import SLOTS, Example, build, build_text, prompt
from mmpt.tokens.grammar import Grammar, check, grammar
from mmpt.tokens.space import Range, TokenSpace, build_token_space, load, upstream_sha

__all__ = [
    "SLOTS",
    "TASKS",
    "Example",
    "Grammar",
    "Range",
    "TokenSpace",
    "build",
    "build_text",
    "build_token_space",
    "check",
    "grammar",
    "load",
    "prompt",
    "upstream_sha",
]
