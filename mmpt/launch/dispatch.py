"""Hands a stage's part to the launcher that the profile names for the stage."""

from __future__ import annotations

from typing import Any

from mmpt.launch.job import WorkerJob, named
from mmpt.launch.process_setup import ProcessSetup, resolve
from mmpt.launch.reports import Reports
from mmpt.store.stage import Part, StageContext

RUN = {
    "torchrun": "mmpt.launch.torchrun:run",
    "ray": "mmpt.launch.ray_data:run",
    "slurm": "mmpt.launch.slurm:run",
}


def launch(ctx: StageContext, part: Part, each: type | None = None, setting: ProcessSetup = ProcessSetup()) -> None:
    """Have workers do all of ``part``; return when ``ctx.work`` holds all that it makes.

    Workers that ended well in an earlier attempt at the same result are not started again.

    Args:
        part, each: as of ``StageContext.spread``.

    Raises:
        UserError: a worker's, or the launcher's own.  WorkersFailed: they died too often.
    """
    if not ctx.launcher.spreads:
        return
    job = WorkerJob.of(ctx, named(part), named(each), setting)
    reports = Reports(job.folder)
    if reports.complete():
        ctx.log(f"the {ctx.launcher.kind} workers had done all of it")
    else:
        resolve(RUN[ctx.launcher.kind])(ctx, job)
    ctx.info(**_told(ctx, reports))


def _told(ctx: StageContext, reports: Reports) -> dict[str, Any]:
    """For the receipt: what the first worker measured, and what the launch was."""
    ends = reports.ends()
    about = {
        "kind": ctx.launcher.kind,
        "processes": ends[0].world,
        "restarts": max(end.restart for end in ends),
        "peak_memory_mib": [end.info["peak_memory_mib"] for end in ends],
    }
    return {
        **{key: value for key, value in ends[0].info.items() if key != "peak_memory_mib"},
        "launcher": about,
    }
