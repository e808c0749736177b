"""Work that kills its own process, in a fork of this one."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable


def dies(work: Callable[[], object]) -> bool:
    """Whether the work ends by SIGKILL; what it raises instead is printed."""
    if (child := os.fork()) == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)  # reached only if the kill did not come
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
