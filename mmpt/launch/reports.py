"""Reports of workers: per worker one small file for its progress and one for its end, each replaced whole.

progress-<rank>.json   {"done", "total", "text"}
ended-<rank>.json      {"world", "status", "text", "restart", "info"}; status as of a stage, "ok" for good
died.json              {"text"}: what took a worker that could not tell itself
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpt.store.atomic import atomic_write

EVERY = 0.5  # seconds between two progress files of a worker


@dataclass(frozen=True)
class End:
    """How a worker ended."""

    rank: int
    world: int
    status: str
    text: str
    restart: int
    info: dict[str, Any]


@dataclass(frozen=True)
class Reports:
    """The reports below the folder of a launch."""

    folder: Path

    def clear(self) -> None:
        """Forget what an earlier attempt told."""
        for pattern in ("progress-*.json", "ended-*.json", "died.json"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def sink(self, rank: int) -> Callable[[int, int, str], None]:
        """on_progress of a worker."""
        last = 0.0

        def tell(done: int, total: int, text: str) -> None:
            nonlocal last
            now = time.monotonic()
            if done >= total or now - last >= EVERY:
                last = now
                self._write(f"progress-{rank}.json", {"done": int(done), "total": int(total), "text": text})

        return tell

    def end(self, end: End) -> None:
        """Tell how a worker ended."""
        told = {key: value for key, value in vars(end).items() if key != "rank"}
        self._write(f"ended-{end.rank}.json", told)

    def died(self, text: str) -> None:
        """Tell, for a worker that cannot, what took it."""
        self._write("died.json", {"text": text})

    def progress(self) -> tuple[int, int, str]:
        """(done, total, text) of all workers together; total 0 before the first report."""
        told = [one for path in sorted(self.folder.glob("progress-*.json")) if (one := _read(path))]
        texts = [one["text"] for one in told if one["text"]]
        return sum(one["done"] for one in told), sum(one["total"] for one in told), texts[0] if texts else ""

    def ends(self) -> list[End]:
        """Of the workers that have ended, by rank."""
        found = [(path, _read(path)) for path in self.folder.glob("ended-*.json")]
        ends = [End(int(path.stem.partition("-")[2]), **told) for path, told in found if told]
        return sorted(ends, key=lambda end: end.rank)

    def death(self) -> str:
        """What ``died`` told, or ""."""
        told = _read(self.folder / "died.json")
        return told["text"] if told else ""

    def complete(self) -> bool:
        """Whether every worker has ended well."""
        ends = self.ends()
        return bool(ends) and len(ends) == ends[0].world and all(end.status == "ok" for end in ends)

    def _write(self, name: str, told: dict[str, Any]) -> None:
        data = json.dumps(told, sort_keys=True, default=float).encode()
        atomic_write(self.folder / name, data, durable=name.startswith("ended"))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:  # cleared for a new attempt
        return None
