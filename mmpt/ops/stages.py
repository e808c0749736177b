"""Stage kernels: measures the ops for gate K1. Profile key it reads: ops.backend."""

from __future__ import annotations

from mmpt.ops.reference_check import check, devices
from mmpt.store.canonical import write_json
from mmpt.store.digests import sha256_file
from mmpt.store.evidence import Metric, write_evidence
from mmpt.store.stage import StageContext

REFERENCE = "reference"


def kernels(ctx: StageContext) -> None:
    """Checks both ops on every device of this machine: kernels.json, evidence/K1."""
    found = {device: check(device, ctx.seed) for device in devices()}
    report = {
        "asked": ctx.profile["ops.backend"],
        "backend": REFERENCE,
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
    metrics.append(
        Metric("nonfinite_values", sum(one.nonfinite for one in found.values()), values, "values", "lower")
    )
    metrics.append(
        Metric("devices_unchecked", len(set(devices()) - set(found)), len(found), "devices", "lower")
    )
    notes = [f"backend: {REFERENCE}", *(note for one in found.values() for note in one.notes)]
    write_evidence(
        ctx.out, "K1", metrics, subject={"kernels.json": sha256_file(ctx.out / "kernels.json")}, notes=notes
    )
    worst = max(max(one.errors.values()) for one in found.values())
    ctx.log(
        f"largest error over tolerance {worst:.3g}, draws outside the support "
        f"{sum(sum(one.violations.values()) for one in found.values())}"
    )
