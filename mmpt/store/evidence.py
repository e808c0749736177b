"""Evidence: the file in which a stage reports measurements to a gate.

It holds numbers with sample size and interval, samples with digests, and controls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mmpt.store.canonical import read_json, write_json
from mmpt.store.schema import validate

Direction = Literal["higher", "lower", "none"]


@dataclass(frozen=True)
class Metric:
    """One measured number.

    Args:
        name: the metric that a check in gates/ names.
        value: the measurement; None or a non-finite number is stored as null and makes its checks CANNOT_DECIDE.
        n: sample size, the number of independent items.
        unit: e.g. "nats/token", "share", "items".
        direction: which way is better.
        ci_low, ci_high: ends of the 95 % interval; None: none was computed.
        slice: the part it was measured on, e.g. "t2a" or "picture.colour"; empty for the whole.
    """

    name: str
    value: float | int | None
    n: int
    unit: str = ""
    direction: Direction = "none"
    ci_low: float | None = None
    ci_high: float | None = None
    slice: str = ""

    def to_json(self) -> dict[str, Any]:
        """The metric as evidence.schema.json describes it."""
        row = asdict(self)
        for key in ("value", "ci_low", "ci_high"):
            row[key] = _finite(row[key])
        return row


def _finite(value: float | int | None) -> float | int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def write_evidence(
    folder: Path,
    gate: str,
    metrics: Sequence[Metric],
    *,
    subject: dict[str, str],
    samples: Sequence[dict[str, Any]] = (),
    controls: Sequence[dict[str, Any]] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write ``folder/evidence/<gate>.json`` and return its path.

    Args:
        subject: what was measured: name -> SHA-256.
        samples: items a person may look at: {"path"?, "sha256"?, "caption"?, ...}.
        controls: negative and positive controls: {"name", "value", "expected"...}.
        notes: sentences for the reader of the report.

    Raises:
        SchemaError: what was given is not evidence.
    """
    evidence = {
        "schema": "evidence/1",
        "gate": gate,
        "subject": dict(sorted(subject.items())),
        "metrics": [metric.to_json() for metric in metrics],
        "samples": list(samples),
        "controls": list(controls),
        "notes": list(notes),
    }
    path = folder / "evidence" / f"{gate}.json"
    validate(evidence, "evidence", where=path)
    write_json(path, evidence, durable=False)
    return path


def read_evidence(path: Path) -> dict[str, Any]:
    """Read and check one evidence file.

    Raises:
        UserError: missing, not JSON, or not evidence.
    """
    evidence = read_json(path)
    validate(evidence, "evidence", where=path)
    return evidence
