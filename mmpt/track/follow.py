"""Sends a run to the profile's trackers: `python -m mmpt.track.follow` beside a build, `doit track` at any time.

It reads what the run writes and nothing of a stage: a tracker that fails, hangs or is edited changes no result and no
fingerprint. What was sent is kept in logs/track/<tracker>/sent.json, so that it is sent once, after a kill too.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpt.store.canonical import digest_json, read_json, write_json
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError
from mmpt.track import run_facts
from mmpt.track.tracker import TrackedRun, Tracker, open_tracker

EVERY = 5.0  # seconds between two looks at a run that is being built


class Sender:
    """Sends to one tracker what it has not got yet.

    Args:
        root: artifacts/<profile>.
        settings: of the profile, by dotted key.
    """

    def __init__(self, name: str, root: Path, settings: Mapping[str, Any]):
        self.name, self.root, self.settings = name, root, settings
        self.folder = root / "logs" / "track" / name
        self.tracker: Tracker | None = None
        self.identity = ""

    def send(self, *, whole: bool) -> int:
        """Send what is new; how many rows, results and media that was.

        Args:
            whole: with verdicts, decision and media, which stand only when the build has ended.
        """
        identity = run_facts.training(self.root)
        if not identity:
            return 0
        if identity != self.identity:
            self.close()
            self.identity = identity
        sent = self._sent()
        count = sum(self._send_rows(stage, sent) for stage in run_facts.STAGES)
        if whole and (found := run_facts.results(self.root)):
            count += self._send_results(*found, sent) + self._send_media(sent)
        return count

    def close(self) -> None:
        if self.tracker is not None:
            self.tracker.close()
            self.tracker = None

    def seen(self) -> str:
        """How to look at the run."""
        return self.tracker.seen if self.tracker else ""

    def _open(self) -> Tracker:
        if self.tracker is None:
            run = TrackedRun(self.root.name, f"{self.root.name}-{self.identity}", self.settings, self.folder)
            self.tracker = open_tracker(self.name, run)
        return self.tracker

    def _sent(self) -> dict[str, Any]:
        path = self.folder / "sent.json"
        sent: dict[str, Any] = read_json(path) if path.is_file() else {}
        if sent.get("training") != self.identity:
            sent = {"training": self.identity, "steps": {}, "results": "", "media": ""}
        return sent

    def _keep(self, sent: Mapping[str, Any]) -> None:
        write_json(self.folder / "sent.json", sent)

    def _send_rows(self, stage: str, sent: dict[str, Any]) -> int:
        new = run_facts.rows(self.root, stage, sent["steps"].get(stage, -1))
        if new:
            self._open().rows(stage, new)
            sent["steps"][stage] = new[-1][0]
            self._keep(sent)
        return len(new)

    def _send_results(self, numbers: Mapping[str, float], texts: Mapping[str, str], sent: dict[str, Any]) -> int:
        if sent["results"] == (digest := digest_json([dict(numbers), dict(texts)])):
            return 0
        self._open().results(numbers, texts)
        self._keep(sent | {"results": digest})
        sent["results"] = digest
        return len(texts)

    def _send_media(self, sent: dict[str, Any]) -> int:
        media = run_facts.media(self.root)
        digest = digest_json([[one.name, one.caption, sha256_file(one.path)] for one in media])
        if not media or sent["media"] == digest:
            return 0
        self._open().media(media)
        self._keep(sent | {"media": digest})
        sent["media"] = digest
        return len(media)


def send_all(senders: Sequence[Sender], *, whole: bool) -> tuple[int, dict[str, str]]:
    """(how much was sent, by tracker: why it failed). A tracker that fails does not keep the others waiting."""
    count, failed = 0, {}
    for sender in senders:
        try:
            count += sender.send(whole=whole)
        except Exception as error:  # whatever a tracker's package raises
            failed[sender.name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return count, failed


def close_all(senders: Sequence[Sender]) -> dict[str, str]:
    """By tracker: why its end failed."""
    failed = {}
    for sender in senders:
        try:
            sender.close()
        except Exception as error:
            failed[sender.name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return failed


def main(words: Sequence[str] | None = None) -> int:
    """Follow a run until standard input ends or has a line; then send the rest. Prints one JSON object at the end:
    {"sent": count, "seen": {tracker: how to look}, "failed": {tracker: why}}.
    """
    parser = argparse.ArgumentParser(prog="python -m mmpt.track.follow", description=__doc__.split("\n")[0])
    parser.add_argument("root", type=Path, help="artifacts/<profile>")
    parser.add_argument("--settings", type=json.loads, default={}, help="of the profile, as JSON")
    parser.add_argument("trackers", nargs="+")
    asked = parser.parse_args(words)
    senders = [Sender(name, asked.root, asked.settings) for name in asked.trackers]
    answer = os.dup(1)
    os.dup2(2, 1)  # what trackers print goes to the log; the answer alone to whom has asked
    count = 0
    while not select.select([sys.stdin], [], [], EVERY)[0]:
        more, _ = send_all(senders, whole=False)  # what failed is tried again
        count += more
    more, failed = send_all(senders, whole=True)
    seen = {one.name: one.seen() for one in senders if one.seen()}
    failed |= close_all(senders)
    os.write(answer, json.dumps({"sent": count + more, "seen": seen, "failed": failed}).encode())
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
