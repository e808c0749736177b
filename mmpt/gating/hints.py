"""Commands in messages and remedies, spelled for this profile and program so that they can be typed as they are."""

from __future__ import annotations

import re

# Commands that are the same for every profile, or name their runs themselves.
OF_NO_PROFILE = ("bench", "completion", "diff", "help", "list")
NAMED = re.compile(r"`doit(?P<words>(?: [^`]*)?)`")
PLAIN = re.compile(r"\brun doit\b(?! (?:in|on|with)\b)")


def typed(text: str, command: str) -> str:
    """``text`` with each `doit ..` in it, and each "run doit", as ``command`` would begin it.

    typed("run `doit corpus` first", "mmpt profile=my.yaml") == "run `mmpt corpus profile=my.yaml` first"

    Args:
        command: the program and its variables: "doit", "doit profile=trial", "mmpt profile=my.yaml".
    """
    program, _, variables = command.partition(" ")
    if command == "doit":
        return text

    def named(match: re.Match[str]) -> str:
        words = match["words"]
        own = "profile=" in words or words.split()[:1] in [[name] for name in OF_NO_PROFILE]
        return f"`{program}{words}`" if own or not variables else f"`{program}{words} {variables}`"

    return NAMED.sub(named, PLAIN.sub(f"run `{command}`", text))
