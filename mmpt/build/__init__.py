"""The build: the stage table, fingerprints, receipts, staleness, running stages, and doit's face of it. No
torch.
"""

import sys

if sys.platform == "win32":  # flock, process groups and forkserver are not there
    raise SystemExit("mmpt runs on Linux and macOS; on Windows use WSL")
