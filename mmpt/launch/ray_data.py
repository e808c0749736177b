"""Pieces dealt out one by one by Ray Data, to actors that open what they need once. For tokenising.

RAY_ADDRESS names a cluster; without it one is started on this machine, and ended with the stage. Every actor
writes into the stage's work folder, so a cluster needs that folder at the same path on all of its machines.
"""

from __future__ import annotations

import logging
import os
import socket
import traceback
from typing import Any

from mmpt.launch.errors import GOES_ON, WorkersFailed, raise_failure
from mmpt.launch.job import WorkerJob
from mmpt.launch.process_setup import failure, peak_memory_mib, prepare, resolve
from mmpt.launch.reports import End, Reports
from mmpt.store.errors import UserError
from mmpt.store.stage import StageContext

# A build reports to nobody, and its log holds every line, as it was written.
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0"}
PATIENCE = 10.0  # seconds for a cluster to answer
OBJECT_STORE = 100 << 20  # bytes: only names of pieces pass through it


class Actor:
    """One worker: opens what its pieces need when it starts, and does one piece per call.

    Args:
        told: a WorkerJob, as JSON.
    """

    def __init__(self, told: dict[str, Any]):
        self.job, self.refusal = WorkerJob.from_json(told), ""
        try:
            context = self.job.worker_context(self.job.device)
            context.on_log = lambda line: print(line, flush=True)
            prepare(context, self.job.setting)
            self.each = resolve(self.job.each)(context)
        except UserError as error:  # raised here it would come out as a failure of ray's
            self.refusal = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        status, text = ("refused", self.refusal) if self.refusal else self._done(row["piece"])
        worker = f"{os.uname().nodename}:{os.getpid()}"
        return {**row, "status": status, "text": text, "worker": worker, "memory": peak_memory_mib()}

    def _done(self, piece: str) -> tuple[str, str]:
        try:
            self.each(piece)
        except UserError as error:
            return "refused", str(error)
        except Exception as error:
            # What a piece raises is reported to the stage; its traceback is in the log.
            traceback.print_exc()
            return failure(error)
        return "ok", ""


def run(ctx: StageContext, job: WorkerJob) -> None:
    """Have actors do all pieces of ``job.each``.

    Raises:
        UserError: ray is missing, or a worker's, in its words.  WorkersFailed: ray gave up.
    """
    ray, reports = _ray(), Reports(job.folder)
    pieces = resolve(job.each).pieces(ctx)
    reports.clear()
    if not pieces:
        reports.end(End(0, 1, "ok", "", 0, {"peak_memory_mib": peak_memory_mib()}))
        return
    rows, workers = _done(ray, ctx, job, pieces)
    _report(reports, rows, workers)
    raise_failure(reports)


def _done(ray: Any, ctx: StageContext, job: WorkerJob, pieces: list[str]) -> tuple[list[dict[str, Any]], int]:
    """Rows of all pieces and the number of actors. Ray starts actors again itself, but ends the whole run when
    a machine goes down with what it held; then the pieces are dealt anew, those that are there cost nothing.
    """
    fault = ray.exceptions
    with_machine = (fault.ActorUnavailableError, fault.NodeDiedError, fault.ObjectLostError)
    for tries in range(job.launcher.restarts + 1):
        try:
            workers = _start(ray, ctx, job)
            return _dealt(ray, ctx, job, pieces, workers), workers
        except fault.RayError as error:
            lost = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            if not isinstance(error, with_machine) or tries == job.launcher.restarts:
                raise WorkersFailed(f"{lost}; {GOES_ON}") from None
            ctx.log(f"{lost}; dealt again, {tries + 1} of {job.launcher.restarts}")
        finally:
            ray.shutdown()
    raise AssertionError("the last try returns or raises")


def _ray() -> Any:
    for name, value in ENVIRONMENT.items():  # ray reads some of it when it is imported
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(
            "ray is not installed",
            where="launcher.kind",
            found=str(error),
            fix='pip install "mmpt[ray]", or choose local, torchrun or slurm',
        ) from None
    return ray


def _start(ray: Any, ctx: StageContext, job: WorkerJob) -> int:
    """Join or start the cluster; how many actors it shall run."""
    address, workers = os.environ.get("RAY_ADDRESS"), job.launcher.processes
    if address:
        _require_reachable(address)
    own = {} if address else {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
    if not address and workers:
        own["num_cpus"] = workers
    ray.init(
        address=address or "local",
        logging_level=logging.WARNING,
        runtime_env={"env_vars": job.environment()},
        **own,
    )
    found = ray.cluster_resources()
    workers = workers or int(found.get("GPU", 0))
    if (ctx.device == "cuda" and found.get("GPU", 0) < workers) or not workers:
        raise UserError(
            "ray sees too few GPUs",
            where="launcher.processes",
            found=int(found.get("GPU", 0)),
            expected=f"{workers or 1}, one per worker",
        )
    return workers


def _require_reachable(address: str) -> None:
    """Ray itself would try for minutes.

    Raises:
        UserError: nothing listens at HOST:PORT.
    """
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not port.isdecimal():  # "auto", "local"
        return
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except OSError as error:
        raise UserError(
            "no ray cluster answers",
            where="RAY_ADDRESS",
            found=f"{address} ({error.strerror or error})",
            fix="`ray status` there, or unset RAY_ADDRESS for a cluster of this machine's own",
        ) from None


def _dealt(ray: Any, ctx: StageContext, job: WorkerJob, pieces: list[str], workers: int) -> list[dict[str, Any]]:
    """What came back, a row a piece."""
    settings = ray.data.DataContext.get_current()
    settings.enable_progress_bars = False  # the stage has its own
    dealt = ray.data.from_items([{"piece": piece} for piece in pieces], override_num_blocks=len(pieces)).map(
        Actor,
        fn_constructor_args=(job.to_json(),),
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(pieces))),
        num_cpus=1,
        num_gpus=1 if ctx.device == "cuda" else 0,
        max_restarts=job.launcher.restarts,
        max_task_retries=job.launcher.restarts,
    )
    rows: list[dict[str, Any]] = []
    for row in dealt.iter_rows():
        rows.append(row)
        ctx.progress(len(rows), len(pieces), row["piece"])
        if row["status"] != "ok":
            break
    return rows


def _report(reports: Reports, rows: list[dict[str, Any]], workers: int) -> None:
    """As workers with ranks would have told it themselves; an actor that was started again has a new name."""
    names = list(dict.fromkeys(row["worker"] for row in rows))
    world = min(workers, len(names))
    for rank in range(world):
        theirs = [row for row in rows if names.index(row["worker"]) % world == rank]
        last = next((row for row in theirs if row["status"] != "ok"), theirs[-1])
        info = {"peak_memory_mib": max(row["memory"] for row in theirs)}
        reports.end(End(rank, world, last["status"], last["text"], len(names) - world, info))
