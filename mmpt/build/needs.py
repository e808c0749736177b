"""Disk space and GPU memory that the stages of a run will need, for `doit plan`.

The numbers are those of `doit fit`, which counts a step of every stage with tensors without storage. That takes a
minute for a base of billions of parameters, so the answer is kept beside the profile's caches.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmpt.build.commandline import computing
from mmpt.build.fingerprint import manifest_digest, portable
from mmpt.build.project import Project
from mmpt.build.sharing import size_text
from mmpt.store.canonical import digest_json
from mmpt.store.errors import UserError
from mmpt.store.stat_cache import read_cache, write_cache
from mmpt.store.tasks import EMIT_TASKS

COUNTED = "mmpt.evaluate.fitting"
READ = ("manifest", "shards", "examples", "base", "token_space")  # stages whose results make the count exact
KEPT = ("model", "tasks", "stages")  # of the report
FLOAT32, ADAM = 4, 3  # bytes; a trained value and its two moments


@dataclass(frozen=True)
class Need:
    """What a run needs of one thing.

    Args:
        of: "disk" or "gpu".
        bytes: at most, at one time.
        have: what there is, in bytes; 0: there is no GPU.
        parts: what it is made of, in words.
    """

    of: str
    bytes: int
    have: int
    parts: str

    @property
    def lacking(self) -> bool:
        return self.bytes > self.have

    def __str__(self) -> str:
        if self.of == "disk":
            return f"on the disk about {size_text(self.bytes)} ({self.parts}); {size_text(self.have)} are free"
        there = f"this machine's has {self.have / 2**30:.1f} GiB" if self.have else "this machine has no GPU"
        return f"of a GPU {self.bytes / 2**30:.1f} GiB ({self.parts}); {there}"

    def to_json(self) -> dict[str, Any]:
        """As commands.schema.json describes it."""
        return {**asdict(self), "lacking": self.lacking}


def needs(project: Project, stages: set[str]) -> list[Need]:
    """What the named stages need, as far as it is large: of a run on a GPU, and of any with a pretrained base.

    Args:
        stages: those that would run, without those whose result is taken from elsewhere.
    """
    data = project.profile.data
    counted = _counted(project) if data.get("runtime", {}).get("device") == "cuda" and stages else {}
    large = counted or data.get("base", {}).get("kind") == "pretrained"
    return [*(_gpu(counted, stages) if counted else ()), *(_disk(project, counted, stages) if large else ())]


def _counted(project: Project) -> dict[str, Any]:
    """The report of `doit fit`, from memory where nothing that it rests on changed; empty where it cannot be made."""
    code = project.code.closure(f"{COUNTED}:fit_report")[0]
    read = {name: manifest_digest(project, name) for name in READ}
    key = digest_json([portable(dict(project.profile.data)), code, read, _config(project)])
    path = project.state / "needs.json"
    known = read_cache(path)
    if known.get("key") != key:
        print("counting what the stages need of a GPU: a minute, once for this profile", file=sys.stderr, flush=True)
        fit, fitting = computing(project, "mmpt.train.fit"), computing(project, COUNTED)
        try:
            device = fit.device_of(project.profile, None, None, None)
        except UserError:  # no GPU here: counted for one that takes everything
            device = fit.Device("", "cuda", 2**50, False, 1e15, 1)
        try:
            report = fitting.fit_report(project.root, project.profile, device)
        except UserError as error:  # e.g. a base that is nowhere yet, of an unknown size
            print(f"not counted: {error}", file=sys.stderr, flush=True)
            return {}
        known = {"key": key, "have": device.memory if device.name else 0, **{one: report[one] for one in KEPT}}
        write_cache(path, known)
    return known


def _config(project: Project) -> str:
    path = Path(project.profile.data["base"].get("path", "")) / "config.json"
    return project.outside_cache.digest(path) if path.is_file() else ""


def _gpu(counted: Mapping[str, Any], stages: set[str]) -> Iterator[Need]:
    mine = [one for one in counted["stages"] or () if stages & set(one["stages"])]
    if mine:
        worst = max(mine, key=lambda one: one["total"])
        others = [f"{one['total'] / 2**30:.1f} {'/'.join(one['stages'])}" for one in mine if one is not worst]
        parts = f"{worst['stages'][0]}: {worst['doing']}; " + ", ".join(others)
        yield Need("gpu", int(worst["total"]), int(counted["have"]), parts)


def _disk(project: Project, counted: Mapping[str, Any], stages: set[str]) -> Iterator[Need]:
    parts = {name: size for name, size in _sizes(project, counted, stages) if size}
    if parts:
        told = ", ".join(f"{name} {size_text(size)}" for name, size in parts.items())
        there = next(one for one in (project.root, *project.root.parents) if one.exists())
        yield Need("disk", sum(parts.values()), shutil.disk_usage(there).free, told)


def _sizes(project: Project, counted: Mapping[str, Any], stages: set[str]) -> Iterator[tuple[str, int]]:
    """(what, bytes) of what the stages write and keep."""
    data = project.profile.data
    weights = sum(path.stat().st_size for path in Path(data["base"].get("path", "")).glob("*.safetensors"))
    if not weights and counted:
        weights = counted["model"]["parameters"] * {"float32": 4}.get(data["runtime"]["dtype"], 2)
    yield "the base's copy", weights * ("base" in stages)
    yield "the export", weights * ("staged_export" in stages)
    if counted:
        trained = counted["model"]["trained"]
        one = (trained["rows"] + trained["lora"]) * FLOAT32 * ADAM
        steps = data["train"]["steps"]
        saves = math.ceil(steps / data["train"].get("save_every", steps)) * ("train" in stages)
        yield f"{saves} checkpoints", one * saves
        yield "those of warm-up and resume_check", one * (("warmup" in stages) + 2 * ("resume_check" in stages))
        tokens = sum(one["records"] * one["mean"] for task, one in counted["tasks"].items() if task in EMIT_TASKS)
        yield "shards", round(tokens * FLOAT32) * ("shards" in stages)
