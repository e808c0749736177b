"""How long the stages of a run will take, for `doit plan`: from the receipts of earlier runs, scaled by counts.

A receipt has the seconds of its stage. The run's own come first, then those of the newest other run of the project
folder with the same base model and codecs, then those that were recorded of a packaged profile. A stage whose work is
counted in the profile (steps, records, golden items) takes as much more time as it has more of them. A run with other
codecs still tells of the stages that use none; of the others the plan says what differs.

`python -m mmpt.build.stage_times artifacts/smoke` records the times of a run, for machines that have built nothing yet.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmpt.build.declaration import Stage
from mmpt.build.fingerprint import portable
from mmpt.build.project import Project
from mmpt.build.receipts import RECEIPT
from mmpt.build.run_plan import StagePlan
from mmpt.store.atomic import atomic_write
from mmpt.store.canonical import pretty_json, read_json
from mmpt.store.errors import UserError
from mmpt.store.tasks import MODALITIES

RECORDED = Path(__file__).parent / "recorded_times.json"
KEPT = ("base", "codecs", "evaluate", "golden", "runtime", "train", "warmup")  # sections that times depend on
FITTED = 2000  # media that a codec is fitted on at most


@dataclass(frozen=True)
class StageTime:
    """seconds: None where nothing is known of the stage. basis: what they rest on, or why they are not known."""

    seconds: float | None
    basis: str

    def __str__(self) -> str:
        known = "time not known" if self.seconds is None else f"about {spoken(self.seconds)}"
        return f"{known} ({self.basis})" if self.basis else known


@dataclass(frozen=True)
class PastRun:
    """A run as its receipts know it.

    Args:
        name: of its profile. data: what is known of that profile, nested. seconds: stage -> of its last build.
    """

    name: str
    data: Mapping[str, Any]
    seconds: Mapping[str, float]
    records: int | None

    @cached_property
    def model(self) -> Any:
        """What makes a step of the model as long as it is."""
        base = dict(_get(self.data, "base") or {})
        runtime = {key: _get(self.data, f"runtime.{key}") for key in ("device", "dtype")}
        return portable({key: base.get(key) for key in ("kind", "path", "config")} | runtime)

    @cached_property
    def codecs(self) -> dict[str, str]:
        """Modality -> name of its codec; without those that have none."""
        named = {modality: _get(self.data, f"codecs.{modality}.name") for modality in MODALITIES}
        return {modality: name for modality, name in named.items() if name}


def stage_times(project: Project, planned: Iterable[StagePlan]) -> dict[str, StageTime]:
    """Stage -> its time, of those that would run and whose result is not there already."""
    wanted = [one for one in planned if one.state != "fresh" and not one.there]
    if not wanted:
        return {}
    now = PastRun(project.profile.name, project.profile.data, {}, _records(project.root, project.profile.data))
    own, others = past_run(project.root), []
    for folder in sorted(project.root.parent.glob("*"), key=lambda one: one.stat().st_mtime, reverse=True):
        if folder != project.root and not folder.name.startswith("."):
            others.append(past_run(folder))
    recorded = [PastRun(**one) for one in read_json(RECORDED)]
    return {one.stage.name: _time(one.stage, now, own, [*others, *recorded], recorded) for one in wanted}


def _time(stage: Stage, now: PastRun, own: PastRun, others: Iterable[PastRun], recorded: list[PastRun]) -> StageTime:
    why = ""
    for run in (own, *others):
        if stage.name not in run.seconds:
            continue
        if other := _differs(stage, now, run):
            why = why or f"{_told(run, own, recorded)} has {other}"
            continue
        ratio, basis = _ratio(stage, now, run), _told(run, own, recorded)
        if ratio is None:
            return StageTime(run.seconds[stage.name], f"{basis}, whose size is not compared")
        scaled = f", {ratio:.3g} times its counts" if abs(ratio - 1) > 0.01 else ""
        return StageTime(run.seconds[stage.name] * ratio, basis + scaled)
    return StageTime(None, why)


def _told(run: PastRun, own: PastRun, recorded: list[PastRun]) -> str:
    named = f"{run.name} as recorded elsewhere" if run in recorded else f"the run of {run.name}"
    return "its last run" if run is own else named


def _differs(stage: Stage, now: PastRun, run: PastRun) -> str:
    """In what the past run computed with something else than the stage will, in words; empty where it did not.

    A run with sounds and pictures tells of one of either alone: its work is counted in records and items.
    """
    if stage.torch and ("base" in stage.slice or "base" in stage.inputs) and run.model != now.model:
        return "another base model, device or dtype"
    with_codec = "codecs" in stage.slice or any(key.startswith("codecs.") for key in stage.external)
    theirs = {run.codecs.get(modality, f"no codec for {modality}") for modality in now.codecs}
    other = sorted(theirs - set(now.codecs.values())) if with_codec else []
    mine = sorted(set(now.codecs.values()) - theirs)
    return f"{' and '.join(other)}, not {' and '.join(mine)}" if other else ""


def _ratio(stage: Stage, now: PastRun, run: PastRun) -> float | None:
    """How many times the work that the past run had; None: one of both is not known."""
    ours, theirs = (_amount(stage.work, one) for one in (now, run))
    return ours / theirs if ours and theirs else None


def _amount(work: str, run: PastRun) -> float | None:
    """How much there is to do, in units of the stage's own (`Stage.work`); 1 where it is always as much."""
    if work in ("records", "fitted"):
        return run.records if work == "records" or run.records is None else min(run.records, FITTED)
    keys = ("golden.per_task", "golden.ablation") if work == "items" else tuple(re.split(r"[*/]", work)) if work else ()
    values = [_get(run.data, key) for key in keys]
    if None in values:
        return None
    if work == "items":
        return float(sum(values))
    amounts = [float(value) for value in values]
    return amounts[0] / amounts[1] if "/" in work and amounts[1] else math.prod(amounts)


def past_run(root: Path) -> PastRun:
    """What the receipts below artifacts/NAME say; without any, a run of which nothing is known."""
    data: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for path in sorted(root.glob(f"*/{RECEIPT}")):
        try:
            predicate = read_json(path)["predicate"]
            build = predicate["buildDefinition"]
            seconds[path.parent.name] = float(predicate["runDetails"]["info"]["seconds"])
            for key, value in build["externalParameters"]["slice"].items():
                _set(data, key, value)
            _set(data, "runtime", build["internalParameters"])
        except (UserError, KeyError, TypeError, ValueError, OSError):
            continue  # verify says what is wrong with it
    return PastRun(root.name, data, seconds, _records(root, data))


def _records(root: Path, data: Mapping[str, Any]) -> int | None:
    """Of the corpus that is there, else those that the generated corpus will have; None: not known."""
    try:
        with open(root / "corpus" / "data" / "records.jsonl", "rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    except OSError:
        sources = _get(data, "corpus.sources") or [{}]
    if any(one.get("reader") != "generated" for one in sources):
        return None
    return sum(int(one.get(key, 0)) for one in sources for key in ("pictures", "sounds"))


def _get(data: Mapping[str, Any], dotted: str) -> Any:
    value: Any = data
    for part in dotted.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _set(data: dict[str, Any], dotted: str, value: Any) -> None:
    *above, last = dotted.split(".")
    for part in above:
        data = data.setdefault(part, {})
    if isinstance(value, dict) and isinstance(data.get(last), dict):
        data[last] = {**data[last], **value}
    else:
        data[last] = value


def time_lines(times: Mapping[str, StageTime]) -> Iterator[str]:
    """The sum, and what is not in it."""
    known = [one.seconds for one in times.values() if one.seconds is not None]
    unknown = [name for name, one in times.items() if one.seconds is None]
    if known:
        more = f", and {', '.join(unknown)}, of which no time is known" if unknown else ""
        yield f"about {spoken(sum(known))} for one stage after another{more}"
    elif unknown:
        yield "not known: no run here has built these stages alike; `doit fit` estimates the training"


def seconds_json(one: StageTime | None) -> dict[str, Any]:
    """As commands.schema.json describes it; a stage that does not run takes no time."""
    return {"seconds": None if one is None else one.seconds, "seconds_from": "" if one is None else one.basis}


def spoken(seconds: float) -> str:
    """40 s, 5 min, 3.2 h."""
    if seconds < 99.5:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def record(root: Path, path: Path = RECORDED) -> None:
    """Put the times of a finished run below ``root`` into ``path``, in the place of an older run of its profile.

    Raises:
        UserError: no receipts there.
    """
    run = past_run(root)
    if not run.seconds:
        raise UserError("no receipts", where=root, expected="artifacts/NAME of a finished run")
    kept = {key: run.data[key] for key in KEPT if key in run.data}
    others = [one for one in read_json(path) if one["name"] != run.name]
    entry = {"name": run.name, "data": kept, "seconds": dict(run.seconds), "records": run.records}
    atomic_write(path, pretty_json([*others, entry]))


if __name__ == "__main__":
    record(Path(sys.argv[1]))
