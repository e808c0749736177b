"""Stage kernels: the operations against their float64 reference, for gate K1. Profile keys it reads: ops."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mmpt.ops import backend
from mmpt.ops.reference_check import Findings, check, devices
from mmpt.store.canonical import write_json
from mmpt.store.digests import sha256_file
from mmpt.store.evidence import Metric, write_evidence
from mmpt.store.stage import StageContext

MEASURED = (
    "loss",
    "nll",
    "lse",
    "grad_hidden",
    "grad_weight",
)  # by name here too: a check that leaves one out is found


def kernels(ctx: StageContext) -> None:
    """Check both operations, as later stages run them, on each device of this machine: kernels.json, evidence/K1."""
    found = {device: check(device, ctx.seed, ctx.bar(f"cases on {device}")) for device in devices()}
    report = {
        "asked": ctx.profile["ops.backend"],
        "backend": backend.active(),
        "devices": {
            device: {"errors": one.errors, "violations": one.violations, "notes": one.notes}
            for device, one in found.items()
        },
    }
    write_json(ctx.out / "kernels.json", report)
    metrics = []
    for one in found.values():
        metrics += [
            Metric("error_over_tolerance", error, one.cases[where], "x", "lower", slice=where)
            for where, error in sorted(one.errors.items())
        ]
        metrics += [
            Metric("support_violations", wrong, one.draws[where], "draws", "lower", slice=where)
            for where, wrong in sorted(one.violations.items())
        ]
    values = sum(one.values for one in found.values())
    metrics.append(Metric("nonfinite_values", sum(one.nonfinite for one in found.values()), values, "values", "lower"))
    metrics.append(Metric("devices_unchecked", *unchecked(found, ctx.device), "devices", "lower"))
    notes = [f"backend: {backend.active()}", *(note for one in found.values() for note in one.notes)]
    subject = {"kernels.json": sha256_file(ctx.out / "kernels.json")}
    if "extension" in ctx.inputs:
        subject[backend.ABOUT] = sha256_file(ctx.inputs["extension"] / backend.ABOUT)
    write_evidence(ctx.out, "K1", metrics, subject=subject, notes=notes)
    worst = max(max(one.errors.values()) for one in found.values())
    ctx.info(backend=backend.active(), **backend.machine())
    ctx.log(
        f"{backend.active()} operations: largest error over tolerance {worst:.3g}, draws outside the support "
        f"{sum(sum(one.violations.values()) for one in found.values())}"
    )


def unchecked(found: Mapping[str, Findings], device: str) -> tuple[int, int]:
    """(devices without a case of each quantity and a draw of each sampler, all devices that count): those that torch
    sees, and the one that this run computes on.
    """
    wanted = {"cpu", *found, device.partition(":")[0], *(["cuda"] if torch.cuda.is_available() else [])}
    whole = {
        name
        for name, one in found.items()
        if {f"linear_cross_entropy.{quantity}.{name}" for quantity in MEASURED} <= one.cases.keys()
        and {f"{op}.{name}" for op in ("sample_range", "sample_logits")} <= one.draws.keys()
    }
    return len(wanted - whole), len(wanted)
