"""What every test process starts with: one thread, and a Ctrl-C that reaches what it starts.

Several test processes run side by side, and OpenMP's threads wait for one another. A shell without job control
has what it puts into the background ignore SIGINT, and all its children too, so a suite started like that could
not interrupt the builds that it starts.

Imports and the collected tests stay until the end, so nothing searches them for garbage: collecting takes 19 s of CPU
instead of 23.

Tests start hundreds of Python processes. Where PYTHONDONTWRITEBYTECODE is set, as in many containers, each would
compile mmpt again, a fifth of the suite's CPU; so bytecode is written here all the same.
"""

import gc
import os
import signal
import sys

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
