"""The build: the stage table, fingerprints, receipts, staleness, running stages, and doit's face of it. No
torch.
"""

import os
import sys
from types import TracebackType

if sys.platform == "win32":  # flock, process groups and forkserver are not there
    raise SystemExit("mmpt runs on Linux and macOS; on Windows use WSL")


PROGRAM = "mmpt" if os.path.basename(sys.argv[0]) == "mmpt" else "doit"


def _end_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while the commands are still imported is one line, as it is later (commandline.py)."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"{PROGRAM}: interrupted by SIGINT; nothing was begun", file=sys.stderr, flush=True)
    os._exit(1)


# doit imports this package before it reads its command line, and `mmpt` begins in it; nothing else ends by it.
if os.path.basename(sys.argv[0]) in ("doit", "mmpt") or sys.argv[0].endswith(os.path.join("doit", "__main__.py")):
    sys.excepthook = _end_quietly
