"""Memory use of this process, from the system."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")  # of Linux


def status(field: str) -> int:
    """A field of the process's status, such as VmRSS, VmHWM or RssAnon, in bytes. Linux only.

    Raises:
        RuntimeError: no such field.
    """
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"no {field} in {STATUS}")


def peak_resident() -> int:
    """Peak resident memory of this process, bytes."""
    # Where the system tells it: getrusage counts what the parent process had.
    if STATUS.exists():
        return status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
