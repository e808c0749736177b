"""What a run below artifacts/ has to tell, read from its files while they are written or when all has ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmpt.gating.decision import decision_path, read_decision
from mmpt.gating.verdicts import read_verdict
from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError
from mmpt.store.jsonl import iter_jsonl
from mmpt.track.tracker import Medium, Row

STAGES = ("warmup", "train")  # those that train
IDENTITY = 12  # characters of a fingerprint in the name of a stage's work folder
SHOWN = ("original", "final", "sampled")  # of a golden item


def training(root: Path) -> str:
    """Beginning of the fingerprint of the training that is published or under way; empty where there is none."""
    if path := _under_way(root, "train"):
        return path.parts[-3].removeprefix("work-train-")
    receipt = root / "train" / "receipt.json"
    return read_json(receipt)["predicate"]["fingerprint"][:IDENTITY] if receipt.is_file() else ""


def rows(root: Path, stage: str, after: int) -> list[Row]:
    """(step, numbers) of a stage's logged steps behind `after`."""
    path = _under_way(root, stage) or root / stage / "data" / "metrics.jsonl"
    return list(_numbers(path, after)) if path.is_file() else []


def _under_way(root: Path, stage: str) -> Path | None:
    """metrics.jsonl of the newest unpublished attempt at a stage."""
    found = (root / ".staging").glob(f"work-{stage}-*/run/metrics.jsonl")
    return max(found, key=lambda one: one.stat().st_mtime, default=None)


def _numbers(path: Path, after: int) -> Iterator[Row]:
    """Rows up to one that is being written."""
    try:
        for row in iter_jsonl(path):
            if row.get("step", -1) > after:
                numbers = {key: value for key, value in row.items() if key != "step" and _is_number(value)}
                yield row["step"], numbers
    except UserError:
        return


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def results(root: Path) -> tuple[dict[str, float], dict[str, str]] | None:
    """(values by "gate/check/slice", verdicts and decision by name); None while there is no decision."""
    if not decision_path(root).is_file():
        return None
    decision = read_decision(root)
    numbers: dict[str, float] = {}
    texts = {"decision": decision["headline"]}
    for gate in decision["gates"]:
        verdict = read_verdict(root, gate)
        texts[f"gate {gate}"] = verdict["verdict"] + (f": {verdict['reason']}" if verdict["reason"] else "")
        for check in verdict["checks"]:
            if _is_number(check["value"]):
                numbers["/".join(filter(None, (gate, check["id"], check["slice"])))] = check["value"]
    return numbers, texts


def media(root: Path) -> list[Medium]:
    """Originals and outputs of the golden items in the report's gallery."""
    folder = root / "render" / "data"
    path = folder / "report_data.json"
    gallery: list[Mapping[str, Any]] = read_json(path)["gallery"] if path.is_file() else []
    return [
        Medium(f"{item['task']}/{item['id']}/{view['what']}", folder / view["path"], _caption(item, view["what"]))
        for item in gallery
        for view in item["views"]
        if view["what"] in SHOWN
    ]


def _caption(item: Mapping[str, Any], what: str) -> str:
    said = [text["text"] for text in item["texts"] if text["what"] == ("final" if what == "original" else what)]
    return " | ".join([item["caption"], *(f"the model: {text}" for text in said)])
