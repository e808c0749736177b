"""The definition of a stage's result: everything that may change its bytes. Its digest is the fingerprint."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from mmpt.build import plugins
from mmpt.build.code import CodeIndex
from mmpt.build.declaration import Stage
from mmpt.build.policy import granted
from mmpt.build.project import Project
from mmpt.profile.load import is_path_key
from mmpt.profile.packages import counts
from mmpt.store import programs
from mmpt.store.canonical import digest_json
from mmpt.store.digests import sha256_bytes
from mmpt.store.stage import SliceView

# Import names whose distribution is called otherwise.
DISTRIBUTIONS = {"yaml": "PyYAML", "PIL": "pillow"}
ABSENT = "absent"
SOURCES = "corpus.sources."
COVERED = "<by content>"
PATHS = ("replay_file", "heldout_file", "expected")  # profile keys that name files, beside those of is_path_key

Definition = dict[str, Any]


def define(project: Project, stage: Stage, code: CodeIndex | None = None) -> Definition:
    """What the result of ``stage`` depends on, now.

    Returns:
        {"stage", "body", "slice": {key: value}, "inputs": {stage: manifest digest, "absent" where not built},
        "external": {key: digest}, "code": {unit: digest}, "packages": {name: version}, "runtime": {..},
        "tools": {program: version}}, and "granted": {name: digest} of a stage that carries its GO's policy.
    """
    units, others, plugged = _code(project, stage, code or project.code)
    if project.compiled_for(stage):  # the module itself counts, not what it was made of
        units = {unit: digest for unit, digest in units.items() if not unit.startswith("csrc/")}
    return {
        "stage": stage.name,
        "body": stage.body,
        "slice": _slice(project, stage),
        "inputs": {name: manifest_digest(project, name) for name in stage.inputs},
        "external": {name: _content(project, stage, name, path) for name, path in external(project, stage).items()},
        "code": units,
        "packages": dict(sorted({**_packages(others), **plugged}.items())),
        "runtime": {
            "seed": project.profile.data["seed"],
            **{key: project.runtime(key) for key in ("dtype", "device", "threads")},
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        },
        "tools": {tool: programs.version(tool) for tool in stage.tools},
        **({"granted": granted_digests(project)} if stage.granted else {}),
    }


def granted_digests(project: Project) -> dict[str, str]:
    """What a release says of its decision, by digest: profile, policy, softenings, waivers."""
    known = granted(project)
    digests = {key: known[f"{key}_sha256"] for key in ("policy", "softenings", "waivers")}
    return {"profile": digest_json(portable(dict(project.profile.data))), **digests}


def fingerprint(definition: Definition) -> str:
    """SHA-256 of a definition's canonical JSON."""
    return digest_json(definition)


def manifest_digest(project: Project, name: str) -> str:
    """Digest of a stage's published MANIFEST.sha256, or "absent"."""
    try:
        return sha256_bytes((project.root / name / "MANIFEST.sha256").read_bytes())
    except FileNotFoundError:
        return ABSENT


def external(project: Project, stage: Stage) -> dict[str, Path]:
    """Files outside artifacts/ that a stage reads: "<key>", "corpus.sources.<name>" or a key below inputs ->
    existing path.

    A value that is no file here (a hub id) counts by its name alone, through the slice.
    """
    found: dict[str, Path] = {}
    for key in stage.external:
        if key == "corpus.sources":
            found |= {f"{key}.{name}": path for name, path in project.profile.media_roots().items()}
            continue
        if key.startswith("inputs."):
            found |= project.profile.input_paths(key)
            continue
        if key.startswith("codecs."):
            found |= {name: path for name, path in project.profile.codec_files(key).items() if path.exists()}
            continue
        value = SliceView(project.profile.data, (key,), stage.name).get(key)
        if isinstance(value, str) and Path(value).exists():
            found[key] = Path(value)
    return found


def _content(project: Project, stage: Stage, name: str, path: Path) -> str:
    if not path.exists():
        return ABSENT
    source = name.removeprefix(SOURCES)
    if source == name:
        return project.outside_cache.folder_digest(path) if path.is_dir() else project.outside_cache.digest(path)
    if made := project.media_for(stage):
        return project.sources.named(source, project.root / made / "data" / "records.jsonl")
    return project.sources.tables(source)


def _slice(project: Project, stage: Stage) -> dict[str, Any]:
    """The declared keys; a path whose content is fingerprinted does not count itself, so media may move."""
    return {
        key: portable(value)
        for key, value in SliceView(project.profile.data, stage.slice, stage.name).as_dict().items()
    }


def portable(value: Any) -> Any:
    """A profile's data, or part of it, without the places of files that are here: those count by content."""
    if isinstance(value, dict):
        return {key: COVERED if _covered(key, one) else portable(one) for key, one in value.items()}
    return [portable(one) for one in value] if isinstance(value, list) else value


def _covered(key: str, value: Any) -> bool:
    if key in ("store", "track"):  # where results are shared and shown is no part of any
        return True
    return (key in PATHS or is_path_key(key)) and isinstance(value, str) and Path(value).exists()


def _code(project: Project, stage: Stage, code: CodeIndex) -> tuple[dict[str, str], set[str], dict[str, str]]:
    """(unit -> digest, names of other packages, "codec <name>" -> version) of a stage's body, and of the codec
    plug-ins that the profile names where the body opens codecs.
    """
    units, others = code.closure(stage.body)
    others = tuple(one for one in others if counts(one, project.profile.data))
    if plugins.REGISTRY not in units:
        return units, set(others), {}
    named = project.profile.data.get("codecs", {})
    for body in plugins.bodies(named):
        if body.partition(":")[0].partition(".")[0] in code.plugins:
            more, further = code.closure(body)
            units, others = {**units, **more}, (*others, *further)
    return dict(sorted(units.items())), set(others), plugins.versions(named)


def _packages(names: Iterable[str]) -> dict[str, str]:
    return {name: version(name) for name in names if name not in sys.stdlib_module_names and name != "__future__"}


@functools.cache
def version(name: str) -> str:
    """Version of the distribution behind an import name, or "absent"."""
    try:
        return metadata.version(DISTRIBUTIONS.get(name, name))
    except metadata.PackageNotFoundError:
        return ABSENT
