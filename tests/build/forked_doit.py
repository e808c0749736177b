"""`doit` in a process forked from this one: as a fresh interpreter, without its half second of imports."""

from __future__ import annotations

import datetime
import gc
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import mmpt.build.commands
import mmpt.build.commands_gates
import mmpt.build.commands_shell  # noqa: F401  (for its time, before the fork)
from mmpt.report import draw_html

draw_html.template()  # compiled before the fork: a fifth of a run that draws the report

REPO = Path(__file__).resolve().parents[2]
SOON = (datetime.date.today() + datetime.timedelta(days=30)).isoformat()  # a day on which a waiver may end


def forked_doit(
    folder: Path,
    *words: str,
    environment: Mapping[str, str] | None = None,
    first: Callable[[], None] = lambda: None,
    errors: Path | None = None,
) -> tuple[int, str]:
    """Run ``doit WORDS`` in ``folder``; exit status (negative: the signal that ended it) and what it printed.

    Args:
        environment: added to that of this process.
        first: called in the new process before anything else.
        errors: where stderr goes; default: to stdout.
    """
    printed = folder.with_name(f"{folder.name}.printed")
    sys.stdout.flush()
    if (pid := os.fork()) == 0:
        gc.freeze()  # what this process holds is not searched for garbage in the new one
        try:
            _be_doit(folder, (printed, errors or printed), words, environment or {}, first)
        finally:
            os._exit(99)  # only doit's own exit counts
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), printed.read_text()


def _be_doit(
    folder: Path,
    streams: tuple[Path, Path],
    words: tuple[str, ...],
    environment: Mapping[str, str],
    first: Callable[[], None],
) -> None:
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    os.chdir(folder)
    os.environ.update({"PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1", **environment})
    sys.argv = ["doit", *words]
    sys.path.insert(0, str(folder))
    first()
    from doit.doit_cmd import DoitMain

    from mmpt.build.fingerprint import version
    from mmpt.build.tasks import RUN

    version.cache_clear()  # this folder has packages of its own
    RUN.display.stream = sys.stdout  # it was made when pytest imported it
    status = DoitMain().run(list(words))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)
