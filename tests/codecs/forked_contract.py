"""The codec contract's other process, forked from this one: a fresh interpreter imports torch and transformers for 6 s.

For tests that need stage codecs to run, not to be tried. What a fork cannot show, codes that hang on what this process
holds, is asked in test_contract.py.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any
from unittest import mock

from mmpt.codecs import contract


@contextlib.contextmanager
def forked_contract() -> Iterator[None]:
    """Inside, ``examine`` forks. In one thread: a child does not inherit the threads that OpenMP would wait for."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 1
    if torch:
        torch.set_num_threads(1)
    with mock.patch.object(contract, "subprocess", SimpleNamespace(run=_run)):
        yield
    if torch:
        torch.set_num_threads(threads)


def _run(command: Sequence[str], **_: Any) -> CompletedProcess[str]:
    folder, modality, device = command[-3:]
    errors = Path(folder) / "errors.txt"
    if (pid := os.fork()) == 0:
        status = 1
        try:
            contract.encode_saved(Path(folder), modality, device)
            status = 0
        except BaseException:
            errors.write_text(traceback.format_exc())
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return CompletedProcess(command, status, "", errors.read_text() if errors.exists() else "")
