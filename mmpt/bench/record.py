"""Where the results of benchmarks lie, and how one is named: results/<what>-<chip>-<date>.json.

MMPT_BENCH_PART, a word, is added to <what>: parts of a benchmark that run apart do not replace each other's results.
"""

from __future__ import annotations

import datetime
import os
import re
from pathlib import Path
from typing import Any

from mmpt.bench import machine
from mmpt.store.canonical import write_json

RESULTS = Path(__file__).parent / "results"


def place(what: str, device: str) -> Path:
    """The file of today's result on the chip of `device` ("cpu", "cuda")."""
    part = os.environ.get("MMPT_BENCH_PART")
    what = f"{what}-{part}" if part else what
    chip = re.sub("[^a-z0-9]+", "-", machine.chip(device).lower()).strip("-")
    return RESULTS / f"{what}-{chip}-{datetime.date.today().isoformat()}.json"


def write(what: str, device: str, numbers: dict[str, Any]) -> Path:
    """Write `numbers` with the chip of `device` and today's date; returns the file."""
    path = place(what, device)
    write_json(path, {"chip": machine.chip(device), "date": datetime.date.today().isoformat(), **numbers})
    return path
