"""How this process was called: commands in its messages are spelled so that they can be typed as they are."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from mmpt.gating.hints import typed


@dataclass
class Call:
    """The program and the profile of this process.

    Args:
        program: "doit", or "mmpt" where the console command runs.
        profile: as typed; empty where none was.
        shown: a word of the command line -> what was typed there, where the console command made a path absolute.
    """

    program: str = "doit"
    profile: str = ""
    shown: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        word = f"profile={self.profile}"
        return f"{self.program} {shlex.quote(self.shown.get(word, word))}" if self.profile else self.program


CALL = Call()  # one process is one call


def hinted(text: str) -> str:
    """``text`` with its commands as this call would type them."""
    return typed(text, str(CALL))
