"""The profile's `launcher`: its two forms, its rules, and what it means for one stage.

    launcher: torchrun                                       the kind alone
    launcher: {kind: torchrun, processes: 8, stages: {shards: {kind: ray, processes: 64}}}

A stage below `stages` has the keys above for those that it leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpt.store.errors import UserError
from mmpt.store.launcher import Launcher

SPREAD = ("shards", "warmup", "warmup_check", "train", "generate", "read_regression")  # the stages that can be spread
BY_RAY = ("shards",)
_TIME = re.compile(r"(?=\d+-|\d+:\d+:)(?:(?P<d>\d+)-)?(?P<h>\d+)(?::(?P<m>[0-5]?\d)(?::(?P<s>[0-5]?\d))?)?")
ON_A_CPU = 2  # workers, where the profile names no number


def long_form(data: dict[str, Any]) -> dict[str, Any]:
    """``data`` with every kind that stands alone as a mapping; what is no launcher is left to the schema."""
    if "launcher" not in data:
        return data
    whole = _long(data["launcher"])
    if isinstance(whole, dict) and isinstance(whole.get("stages"), dict):
        whole = {**whole, "stages": {name: _long(one) for name, one in whole["stages"].items()}}
    return {**data, "launcher": whole}


def _long(value: Any) -> Any:
    if isinstance(value, str):
        return {"kind": value}
    slurm = value.get("slurm") if isinstance(value, dict) else None
    if isinstance(slurm, dict) and isinstance(slurm.get("time"), str):
        return {**value, "slurm": {**slurm, "time": _minutes(slurm["time"])}}
    return value


def _minutes(time: str) -> int | str:
    """sbatch's own forms with hours, 12:00:00 and 1-12 and 1-12:30:00, as minutes; another text is left to the schema.

    sbatch reads 1:30 as a minute and a half, and people mean an hour and a half: it is not taken.
    """
    match = _TIME.fullmatch(time)
    if match is None:
        return time
    days, hours, minutes, seconds = (int(part or 0) for part in match.group("d", "h", "m", "s"))
    return (days * 24 + hours) * 60 + minutes + (seconds > 0)


def check_launcher(data: Mapping[str, Any], path: Path) -> None:
    """Refuse a launcher whose keys contradict each other.

    Raises:
        UserError: the first broken rule, with the keys and values involved.
    """
    whole = data.get("launcher", {})
    stages = whole.get("stages", {})
    levels = {"launcher": whole, **{f"launcher.stages.{name}": one for name, one in stages.items()}}
    for place, level in levels.items():
        if level.get("kind", whole.get("kind", "local")) == "local" and level.get("processes", 1) > 1:
            raise UserError(
                "a local stage is one process",
                where=f"{path}: {place}.processes",
                found=level["processes"],
                fix="name a kind: torchrun, ray or slurm",
            )
    for name in stages:
        if _keys(whole, name)["kind"] == "ray" and name not in BY_RAY:
            raise UserError(
                "ray only tokenises",
                where=f"{path}: launcher.stages.{name}.kind",
                found="ray",
                expected=f"for {name}: local, torchrun or slurm",
            )
    split = [name for name in ("warmup", "train") if _keys(whole, name).get("shard_base")]
    if data["train"].get("compile") and split:
        raise UserError(
            "a compiled layer cannot be split over the workers",
            where=f"{path}: train.compile",
            found=True,
            expected=f"false, or no shard_base for {' and '.join(split)} in launcher",
        )
    for name in SPREAD:
        keys = _keys(whole, name)
        if keys["kind"] == "slurm":
            place = f"{path}: launcher.stages.{name}" if name in stages else f"{path}: launcher"
            _check_slurm(keys, place, data["runtime"]["device"])


def _check_slurm(keys: Mapping[str, Any], place: str, device: str) -> None:
    if "slurm" not in keys:
        raise UserError(
            "missing key 'slurm'",
            where=place,
            expected="at least its time",
            fix="slurm: {time: 12:00:00, partition: ..}",
        )
    workers, nodes = processes(keys, device), keys["slurm"].get("nodes", 1)
    if workers == 0:
        raise UserError(
            "how many workers", where=place, expected="processes, or slurm.gpus_per_node: a worker for each"
        )
    if workers % nodes:
        raise UserError(
            "the workers do not share the nodes evenly", where=f"{place}.processes", found=f"{workers} on {nodes} nodes"
        )


def processes(keys: Mapping[str, Any], device: str) -> int:
    """How many workers; 0: as many as the machine that starts them has GPUs."""
    if keys["kind"] == "local":
        return 1
    if "processes" in keys:
        return keys["processes"]
    slurm = keys.get("slurm", {})
    if keys["kind"] == "slurm" and "gpus_per_node" in slurm:
        return slurm["gpus_per_node"] * slurm.get("nodes", 1)
    return 0 if device == "cuda" else ON_A_CPU


def _keys(whole: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """The keys that hold for a stage. Ray tokenises only: where it is named for all, the others run alone."""
    keys = {"kind": "local", **whole, **whole.get("stages", {}).get(stage, {})}
    keys.pop("stages", None)
    if keys["kind"] == "ray" and stage not in BY_RAY and stage not in whole.get("stages", {}):
        return {"kind": "local"}
    return keys


def launcher_of(data: Mapping[str, Any], stage: str) -> Launcher:
    """What the checked profile says of one stage; stages that cannot be spread are local."""
    if stage not in SPREAD or "launcher" not in data:
        return Launcher()
    keys = _keys(data["launcher"], stage)
    return Launcher(**{**keys, "processes": processes(keys, data["runtime"]["device"])})
