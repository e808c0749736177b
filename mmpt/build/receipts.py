"""Receipts: beside each result, what it was built from. A stage is fresh if its receipt says so.

    artifacts/<profile>/<stage>/MANIFEST.sha256   sha256sum text of data/; its digest stands for the output
                                receipt.json      an in-toto Statement about it, with a digest of itself
                                data/

All three arrive together: they are made in a staging folder, the receipt last, and the folder is renamed into
place. A killed publish leaves the old version, or none and a complete staging folder, which the next run
adopts.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mmpt.build.declaration import Stage
from mmpt.build.fingerprint import Definition, fingerprint
from mmpt.build.project import Project
from mmpt.gating import withdraw
from mmpt.launch.slurm_queue import cancel_noted
from mmpt.store.atomic import atomic_write, publish_folder
from mmpt.store.canonical import read_sealed, seal, write_json
from mmpt.store.digests import Manifest
from mmpt.store.errors import UserError
from mmpt.store.schema import validate, validate_file

MANIFEST, RECEIPT, DATA = "MANIFEST.sha256", "receipt.json", "data"
STATEMENT, PREDICATE, BUILD_TYPE = "https://in-toto.io/Statement/v1", "urn:mmpt:receipt:1", "urn:mmpt:stage:1"
HEX = re.compile("[0-9a-f]{64}")
# definition key -> prefix of its resolved dependencies
DEPENDENCIES = {
    "inputs": "artifact",
    "external": "external",
    "code": "code",
    "packages": "package",
    "tools": "tool",
    "granted": "decision",
}


def make_receipt(definition: Definition, manifest: Manifest, run: Mapping[str, Any]) -> dict[str, Any]:
    """The receipt of one attempt: a deterministic part (subject, definition, fingerprint) and ``run``."""
    dependencies = [
        _descriptor(f"{prefix}:{name}", value)
        for key, prefix in DEPENDENCIES.items()
        for name, value in sorted(definition.get(key, {}).items())
    ]
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": MANIFEST, "digest": {"sha256": manifest.digest}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {key: definition[key] for key in ("stage", "body", "slice")},
                "internalParameters": definition["runtime"],
                "resolvedDependencies": dependencies,
            },
            "fingerprint": fingerprint(definition),
            "runDetails": dict(run),
        },
    }
    return seal(statement)


def definition_of(receipt: Mapping[str, Any]) -> Definition:
    """The definition that ``make_receipt`` was given: ``definition_of(make_receipt(d, m, r)) == d``."""
    build = receipt["predicate"]["buildDefinition"]
    definition = {**build["externalParameters"], "runtime": build["internalParameters"]}
    definition |= {key: {} for key in DEPENDENCIES if key != "granted"}
    keys = {prefix: key for key, prefix in DEPENDENCIES.items()}
    for one in build["resolvedDependencies"]:
        prefix, _, name = one["name"].partition(":")
        definition.setdefault(keys[prefix], {})[name] = (
            one["digest"]["sha256"] if "digest" in one else one["annotations"]["value"]
        )
    return definition


def _descriptor(name: str, value: str) -> dict[str, Any]:
    return (
        {"name": name, "digest": {"sha256": value}}
        if HEX.fullmatch(value)
        else {"name": name, "annotations": {"value": value}}
    )


def read_receipt(path: Path, *, deep: bool = False) -> dict[str, Any]:
    """Read a receipt that is whole.

    Args:
        deep: also compare it with its schema. A receipt whose digest holds is one that ``publish`` wrote, and
            checking the schemas of all stages takes longer than the rest of a run that has nothing to do.

    Raises:
        UserError: missing, not JSON, not a receipt, or edited.
    """
    receipt = seal(read_sealed(path))
    if deep:
        validate(receipt, "receipt", where=path)
    try:
        if receipt["predicate"]["fingerprint"] != fingerprint(definition_of(receipt)):
            raise UserError("the receipt's fingerprint is not that of its definition", where=path)
    except (KeyError, TypeError, AttributeError):
        raise UserError("not a receipt", where=path) from None
    return receipt


def subject_digest(receipt: Mapping[str, Any]) -> str:
    """Digest of the manifest that a receipt vouches for."""
    return receipt["subject"][0]["digest"]["sha256"]


def check_outputs(stage: Stage, data: Path) -> None:
    """Every declared output is there and holds its schema, and every measured gate has its evidence.

    Raises:
        UserError: the first output that is missing; SchemaError: all violations of a file.
    """
    for output in stage.outputs:
        files = sorted(path for path in data.glob(output.glob) if path.is_file())
        if not files and not output.optional:
            raise UserError(
                "the stage did not write an output it declares",
                where=f"stage {stage.name}",
                expected=output.glob,
            )
        if output.schema:
            for path in files:
                validate_file(path, output.schema)
    for gate in stage.measures:
        path = data / "evidence" / f"{gate}.json"
        if not path.is_file():
            raise UserError(
                "the stage did not write the evidence of a gate it measures",
                where=f"stage {stage.name}",
                expected=f"evidence/{gate}.json",
            )
        validate_file(path, "evidence")


def publish(project: Project, stage: Stage, attempt: Path, definition: Definition, run: Mapping[str, Any]) -> str:
    """Give ``attempt`` (a staging folder that holds data/) its manifest and receipt, and move it into place.

    Returns:
        The manifest's digest.

    Raises:
        UserError, SchemaError: outputs that are not what the table says; nothing is then published.
    """
    check_outputs(stage, attempt / DATA)
    manifest = Manifest.of(attempt / DATA, project.stat_cache)
    atomic_write(attempt / MANIFEST, str(manifest).encode())
    receipt = make_receipt(definition, manifest, run)
    validate(receipt, "receipt", where=f"{stage.name}/{RECEIPT}")
    write_json(attempt / RECEIPT, receipt)
    withdraw(project.root)
    publish_folder(attempt, project.root / stage.name)
    project.stat_cache.moved(attempt / DATA, project.root / stage.name / DATA)
    return manifest.digest


def adopt(project: Project, stage: Stage, definition: Definition) -> bool:
    """Publish a complete attempt that a kill left in staging, if it is of this very definition."""
    for attempt in sorted(project.staging.glob(f"out-{stage.name}-*")):
        try:
            receipt = read_receipt(attempt / RECEIPT)
            manifest = Manifest.parse((attempt / MANIFEST).read_text())
        except (UserError, FileNotFoundError):
            continue
        whole = manifest.digest == subject_digest(receipt) and not manifest.verify(attempt / DATA)
        if whole and receipt["predicate"]["fingerprint"] == fingerprint(definition):
            withdraw(project.root)
            publish_folder(attempt, project.root / stage.name)
            return True
    return False


def sweep(project: Project, stages: Collection[str]) -> list[str]:
    """Remove what attempts at ``stages`` left in staging; for stages whose result is published.

    A job that still works for one of them is cancelled; what was done about it comes back, a line each.
    """
    said: list[str] = []
    for path in project.staging.iterdir() if project.staging.is_dir() else ():
        kind, _, rest = path.name.partition("-")
        if kind not in ("out", "work") or rest.split("-")[0] not in stages:
            continue
        if not path.is_dir():
            path.unlink()  # the lock of a work folder
            continue
        try:
            said += cancel_noted([path])
        except UserError as error:  # its note stays, for the next run
            said.append(str(error))
            continue
        shutil.rmtree(path, ignore_errors=True)
    return said


def machine() -> dict[str, str]:
    """What a byte-for-byte comparison between machines has to look at first."""
    return {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": str(os.cpu_count()),
        "instruction_set": _instruction_set(),
    }


def _instruction_set() -> str:
    try:
        line = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        line = None
    if line is None:
        return platform.processor() or "unknown"
    flags = set(line[1].split())
    return " ".join(flag for flag in ("avx512f", "avx512_bf16", "amx_tile", "avx2", "avx", "sse4_2") if flag in flags)
