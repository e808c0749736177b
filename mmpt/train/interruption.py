"""What asks a training stage to end: SIGTERM, which the build sends to its stages where it is interrupted."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any


class Interruption:
    """A block in which SIGTERM is noted, so that the training can save where it is; the process ends by it afterwards.

    asked: whether the signal came.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = signal.SIG_DFL

    def __enter__(self) -> Interruption:
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)
        if self.asked:
            os.kill(os.getpid(), signal.SIGTERM)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.asked = True
