"""Ends a run at its k-th change to the file system, in whichever of its processes that happens.

Put on the path of a run, this file is imported by each of its Python processes. An audit hook sees every open for
writing, rename, removal and new folder below $CRASH_BELOW before it happens; the product needs no test hooks.
$CRASH_TRACE gets one line a change; at line $CRASH_AT the process $CRASH_DOIT is hit with $CRASH_HOW: KILL, TERM,
or "full", which lets this and every later write fail with ENOSPC.
"""

import errno
import os
import signal
import sys
import time

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def install() -> None:
    """Watch this process from now on."""
    below, trace = os.environ["CRASH_BELOW"], os.environ["CRASH_TRACE"]
    at, how, doit = int(os.environ["CRASH_AT"]), os.environ["CRASH_HOW"], int(os.environ["CRASH_DOIT"])

    def hook(event, args):
        what = _change(event, args, below)
        if not what:
            return
        number = _note(trace, f"{os.getpid()} {what}\n")
        if how == "full" and 0 < at <= number and event in ("open", "os.mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))
        if number == at and how != "full":
            os.kill(doit, getattr(signal, f"SIG{how}"))
            if how == "KILL":
                time.sleep(60)  # until this process is ended with its parent

    sys.addaudithook(hook)


def _change(event, args, below):
    if event == "ctypes.dlsym":
        return "exchange" if args[1] in ("renameat2", b"renameat2") else ""
    if event == "open":
        if not isinstance(args[2], int) or not args[2] & WRITES:
            return ""
    elif event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
        return ""
    if isinstance(args[0], int):
        return ""
    path = os.fsdecode(args[1 if event == "os.rename" else 0])
    # Removing a tree works with names relative to an open folder.
    inside = path.startswith(below) or (not os.path.isabs(path) and event in ("os.remove", "os.rmdir"))
    return f"{event} {path.removeprefix(below)}" if inside else ""


def _note(trace, line):
    """Append a line; how many there are then. One write each, so that processes do not mix theirs."""
    descriptor = os.open(trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
    with open(trace, "rb") as lines:
        return lines.read().count(b"\n")


if "CRASH_BELOW" in os.environ:
    install()
