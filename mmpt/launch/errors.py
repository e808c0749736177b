"""The errors of a launch: a worker's own message to the user, or workers that died."""

from __future__ import annotations

import signal

from mmpt.launch.reports import Reports
from mmpt.store.errors import UserError

GOES_ON = "what is done stays and doit goes on from there"


class WorkersFailed(Exception):
    """The workers did not come to their end; what they said lies in the log already."""


def how_lost(rank: int, code: int) -> str:
    """What took a worker that could not tell it itself, by the exit code of its process."""
    if code >= 0:
        return f"rank {rank} ended with code {code}"
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"rank {rank} was killed by {signal.Signals(-code).name}{hint}"


def raise_refusal(reports: Reports) -> None:
    """Raise the first worker's refusal as the UserError that it was; a full disk too: no restart mends it.

    Raises:
        UserError, WorkersFailed.
    """
    for end in reports.ends():
        if end.status == "refused":
            raise UserError(end.text)
        if end.status == "disk":
            raise WorkersFailed(end.text)


def raise_failure(reports: Reports) -> None:
    """Raise how the first worker that did not end well ended.

    Raises:
        UserError, WorkersFailed.
    """
    raise_refusal(reports)
    for end in reports.ends():
        if end.status != "ok":
            raise WorkersFailed(f"rank {end.rank}: {end.text}; {GOES_ON}")
