"""Where the results of benchmarks lie, and how one is named: results/<what>-<chip>-<date>.json."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

from mmpt.bench import machine
from mmpt.store.canonical import write_json

RESULTS = Path(__file__).parent / "results"


def write(what: str, device: str, numbers: dict[str, Any]) -> Path:
    """Write `numbers` with the chip of `device` ("cpu", "cuda") and today's date; returns the file."""
    today, chip = datetime.date.today().isoformat(), machine.chip(device)
    path = RESULTS / f"{what}-{re.sub('[^a-z0-9]+', '-', chip.lower()).strip('-')}-{today}.json"
    write_json(path, {"chip": chip, "date": today, **numbers})
    return path
