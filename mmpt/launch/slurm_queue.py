"""The state of a slurm job, and cancelling one.

scontrol knows a job until some minutes after its end; later only sacct does, where a cluster keeps accounts.
Where neither knows it the job is over, and its workers' reports say how it ended.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError

QUEUED = "slurm.json"  # {"job", "name"} in the folder of a launch: written once the job is queued
SILENT = "UNANSWERED"
OVER = frozenset(
    (
        "",
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    )
)
ENDS_WITHIN = 60.0  # seconds for a cancelled job's processes to be gone: slurm asks, waits (30 s), and kills


class NoSlurm(UserError):
    """Slurm's programs are not on this machine."""


@dataclass(frozen=True)
class State:
    """A job in slurm's words.

    Args:
        word: e.g. "RUNNING"; "" for a job that slurm does not know any more; SILENT if slurm does not answer.
        reason: why it waits, or slurm does not answer.
        restarts: how often slurm queued it again.
    """

    word: str = ""
    reason: str = ""
    restarts: int = 0

    @property
    def over(self) -> bool:
        """Whether none of its processes is left."""
        return self.word in OVER

    def __str__(self) -> str:
        said = "slurm does not answer" if self.word == SILENT else self.word
        return f"{said} ({self.reason})" if self.reason not in ("", "None") else said


def state(job: str, name: str) -> State:
    """Of the job with this number and name; another's job that has the number by now is not it."""
    answer = _ask("scontrol", "--oneliner", "show", "job", job)
    if answer.returncode == 0:
        told = dict(pair.partition("=")[::2] for pair in answer.stdout.split())
        if told.get("JobName") != name:
            return State()
        return State(told["JobState"], told.get("Reason", ""), int(told.get("Restarts", 0)))
    if "invalid job id" in answer.stderr.lower():
        return State(_account(job, name))
    return State(SILENT, _last_line(answer))


def find(name: str) -> str | None:
    """The number of a job of this user's that waits or runs.

    Raises:
        UserError: slurm does not answer.
    """
    answer = _ask("squeue", "--noheader", "--me", "--name", name, "--format", "%A")
    if answer.returncode != 0:
        raise UserError("slurm does not answer", where="launcher.slurm", found=_last_line(answer))
    listed = answer.stdout.split()
    return listed[0] if listed else None


def cancel(job: str, name: str) -> bool:
    """End a job and wait for its processes to be gone; False if it was over already.

    Raises:
        UserError: it could not be ended.
    """
    before = state(job, name)
    if before.over:
        return False
    found = str(before)
    if before.word != SILENT:
        answer = _ask("scancel", "--quiet", job)
        if wait_until_over(job, name, ENDS_WITHIN if answer.returncode == 0 else 0.0):
            return True
        found = _last_line(answer) or f"its processes are there after {ENDS_WITHIN:.0f} s"
    raise UserError(
        "a slurm job could not be cancelled",
        where=f"job {job}",
        found=found,
        fix=f"scancel {job}, then run doit again",
    )


def wait_until_over(job: str, name: str, seconds: float) -> bool:
    """Whether a job ended within this number of seconds."""
    end, pause = time.monotonic() + seconds, 0.05
    while not state(job, name).over:
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 2.0)
    return True


def cancel_noted(works: Iterable[Path], keep: Path | None = None) -> list[str]:
    """End the jobs whose results nobody will gather; which they were, a line each.

    Args:
        works: work folders of a stage; keep: one whose job goes on.

    Raises:
        UserError: slurm did not end one, or is not here; the note stays for the next attempt.
    """
    said = []
    for note in sorted(note for work in works if work != keep for note in work.glob(f"launch/*/{QUEUED}")):
        told = read_json(note)
        try:
            was_there = cancel(told["job"], told["name"])
        except NoSlurm:  # the profile may not even name slurm any more
            raise UserError(
                f"slurm job {told['job']} of an earlier run may still work, and there is no slurm here",
                where=note,
                expected="scontrol and scancel on PATH",
                fix="run doit on a machine of the cluster; or delete this file, once the job has ended",
            ) from None
        if was_there:
            said.append(f"slurm job {told['job']} of an earlier run is not wanted any more: cancelled")
        note.unlink()
    return said


def _account(job: str, name: str) -> str:
    """How accounting says that a job ended; "" where it says nothing."""
    fields = ("--format", "JobName,State")
    answer = _ask("sacct", "--noheader", "--parsable2", "--allocations", "--jobs", job, *fields)
    for line in answer.stdout.splitlines():
        found, _, word = line.partition("|")
        if found == name:
            return word.split()[0]  # "CANCELLED by 1000"
    return ""


def _last_line(answer: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in answer.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _ask(*words: str) -> subprocess.CompletedProcess[str]:
    """Run one of slurm's programs.

    Raises:
        NoSlurm: it is not here.
    """
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NoSlurm(
            "there is no slurm here",
            where="launcher.kind",
            expected=f"{words[0]} on PATH",
            fix="start doit on a machine of the cluster, or choose local or torchrun",
        ) from None
