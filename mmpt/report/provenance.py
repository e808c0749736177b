"""Provenance, from the receipts of all stages: digests, versions, machines, costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpt.store.canonical import read_json
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError


def provenance(root: Path) -> dict[str, Any]:
    """{"stages": one row a published stage, "packages": name -> versions, "machines": what it ran on}."""
    stages: list[dict[str, Any]] = []
    packages: dict[str, Any] = {}
    machines: list[Any] = []
    for path in root.glob("*/MANIFEST.sha256"):
        row = {
            "stage": path.parent.name,
            "manifest": sha256_file(path),
            "files": path.read_bytes().count(b"\n"),
        }
        receipt = _read(path.with_name("receipt.json"))
        if receipt is None:
            state = "unreadable" if path.with_name("receipt.json").exists() else "missing"
            stages.append({**row, **NOTHING, "receipt": state})
            continue
        stages.append({**row, **receipt["row"], "receipt": "whole"})
        for name, version in receipt["packages"].items():
            packages.setdefault(name, set()).add(version)
        if receipt["machine"] not in machines:
            machines.append(receipt["machine"])
    stages.sort(key=lambda row: (row["finished"], row["stage"]))
    versions = {name: ", ".join(sorted(found)) for name, found in sorted(packages.items())}
    return {"stages": stages, "packages": versions, "machines": sorted(machines, key=str)}


NOTHING: dict[str, Any] = {"fingerprint": "", "seconds": None, "peak_memory_mib": None, "finished": "", "inputs": []}


def _read(path: Path) -> dict[str, Any] | None:
    """What the report shows of one receipt; None where it cannot be read."""
    try:
        predicate = read_json(path)["predicate"]
        build, run = predicate["buildDefinition"], predicate["runDetails"]
        settings = build["internalParameters"]
        known = {key: settings[key] for key in ("device", "dtype", "threads", "python") if key in settings}
        row = {
            "fingerprint": predicate["fingerprint"],
            "seconds": run["info"]["seconds"],
            "peak_memory_mib": run["info"]["peak_memory_mib"],
            "finished": run["metadata"]["finishedOn"],
            "inputs": list(_named("artifact:", build["resolvedDependencies"])),
        }
        packages = {
            name: one.get("annotations", {}).get("value", "")
            for name, one in _named("package:", build["resolvedDependencies"]).items()
        }
        machine = {key: str(value) for key, value in {**run["machine"], **known}.items()}
    except (UserError, KeyError, TypeError, AttributeError):
        return None
    return {"row": row, "packages": packages, "machine": machine}


def _named(prefix: str, dependencies: list[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Name without its prefix -> dependency, for those that have it."""
    return {one["name"].removeprefix(prefix): one for one in dependencies if one["name"].startswith(prefix)}
