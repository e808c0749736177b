"""Names of the new ids in the exported tokenizer."""

from __future__ import annotations

from mmpt.tokens.space import TokenSpace


def token_names(space: TokenSpace) -> list[str]:
    """A name for every new id, in order: <|text_start|>.. <|unused_12|>.. <|image_0|>.. <|audio_cb0_0|>.."""
    named = {token: name for name, token in space.special_tokens.items()}
    special = space.ranges["SPECIAL"]
    names = [named.get(i, f"<|unused_{i - special.start}|>") for i in range(special.start, special.stop)]
    for segment in space.ranges.values():
        if segment.name not in ("TEXT", "SPECIAL"):
            names += [f"<|{segment.name.lower()}_{code}|>" for code in range(segment.size)]
    return names
