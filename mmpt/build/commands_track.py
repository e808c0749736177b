"""`doit track`, and the process that sends a run to the profile's trackers while it is built."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmpt.build.commandline import OurCommand
from mmpt.build.fingerprint import portable
from mmpt.build.project import Project
from mmpt.store.errors import EXIT_BROKE, EXIT_GO, UserError
from mmpt.store.lock import holder

ENDS_WITHIN = 300  # seconds for what is left to be sent when a run has ended


class Track(OurCommand):
    name = "track"
    doc_purpose = "send the run to the profile's trackers: what they have not got yet of losses, gates and golden media"

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        if not trackers(project):
            raise UserError(
                "the profile names no tracker", where=f"{project.profile.path}: track", fix="track: [mlflow]"
            )
        if by := holder(project.state / "lock"):
            raise UserError("a run is building there, and sends itself", where=project.root.name, found=by)
        process = _start(project)
        self.result = _end(process, project)
        self.say(*told(self.result))
        return EXIT_BROKE if self.result["failed"] else EXIT_GO


def trackers(project: Project) -> list[str]:
    """Those of the profile."""
    return list(project.profile.data.get("track", ()))


@contextlib.contextmanager
def followed(project: Project) -> Iterator[None]:
    """Send the run while it is built, if its profile has trackers; at the end say where it can be seen, or why not.

    Whatever a tracker does, the run's results and exit code stay.
    """
    if not trackers(project):
        yield
        return
    process = _start(project)
    try:
        yield
    finally:
        print(*told(_end(process, project)), sep="\n", file=sys.stderr)


def _start(project: Project) -> subprocess.Popen[bytes]:
    log = _log(project)
    log.parent.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(dict(_flat(portable(project.profile.data))))
    words = [str(project.root), "--settings", settings, *trackers(project)]
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "mmpt.track.follow", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            start_new_session=True,  # a Ctrl-C ends the run; what it has done is sent all the same
        )


def _end(process: subprocess.Popen[bytes], project: Project) -> dict[str, Any]:
    """Let it send what is left, and take its answer."""
    try:
        answer, _ = process.communicate(timeout=ENDS_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"sent": 0, "seen": {}, "failed": dict.fromkeys(trackers(project), f"no end after {ENDS_WITHIN} s")}
    try:
        found: dict[str, Any] = json.loads(answer)
    except ValueError:
        log = _log(project).relative_to(project.repo)
        failed = dict.fromkeys(trackers(project), f"ended with {process.returncode}; see {log}")
        return {"sent": 0, "seen": {}, "failed": failed}
    return found


def told(found: Mapping[str, Any]) -> Iterator[str]:
    """A line for each tracker."""
    for name, seen in found["seen"].items():
        if name not in found["failed"]:
            yield f"track: {name}: {seen}"
    for name, why in found["failed"].items():
        yield f"track: {name} FAILED: {why}; `doit track` sends what it has not got"
    if not found["seen"] and not found["failed"]:
        yield "track: nothing to send"


def _log(project: Project) -> Path:
    return project.root / "logs" / "track" / "follow.log"


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str | float | bool]]:
    """Settings by dotted key; lists as JSON."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _flat(one, f"{key}.{name}" if key else str(name))
    elif isinstance(value, str | int | float):
        yield key, value
    elif value is not None:
        yield key, json.dumps(value)
