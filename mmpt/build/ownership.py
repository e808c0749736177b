"""Whose run an artifact folder is: artifacts/<name>/profile.json names the profile file that built it.

Two profile files with one name would build over each other's artifacts, and the second one's decision would stand for
the first one's run. The name goes to another file only where the first is gone or has given the name up.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmpt.build.artifact_index import OWNER
from mmpt.build.project import Project
from mmpt.profile import PACKAGED, stated_name
from mmpt.store.canonical import read_sealed, write_sealed
from mmpt.store.errors import UserError
from mmpt.store.schema import validate

PACKAGED_AS = "packaged/"  # of a profile that comes with the package


def check_owner(project: Project) -> None:
    """Refuse a profile whose name is that of another file's run.

    Raises:
        UserError: both files are there and have that name.
    """
    owner = _owner(project)
    if owner and owner != _file(project) and _has_name(_path(project, owner), project.profile.name):
        mine = os.path.relpath(project.profile.path, project.repo)
        raise UserError(
            "the name of this profile belongs to the run of another file",
            where=f"{mine}: name",
            found=project.profile.name,
            expected=f"a name that {owner} does not have: both would build artifacts/{project.profile.name}",
            fix="give one of the two files another name",
        )


def claim(project: Project) -> None:
    """Put the profile's file on record as the owner of its artifact folder; the caller holds the profile's lock."""
    body = {"schema": "owner/1", "name": project.profile.name, "file": _file(project)}
    if _owner(project) != body["file"]:
        validate(body, "owner", where=OWNER)
        write_sealed(project.root / OWNER, body)


def wrong_owner(project: Project) -> list[str]:
    """What is wrong with profile.json, for `doit verify`."""
    try:
        body = read_sealed(project.root / OWNER)
        validate(body, "owner", where=OWNER)
    except UserError as error:
        return [f"{OWNER}: {error.what}"]
    mine = _file(project)
    return [] if body["file"] == mine else [f"{OWNER}: the run is of {body['file']}, looked at by {mine}"]


def _owner(project: Project) -> str:
    """The file on record; empty where there is none that can be read."""
    try:
        body: Any = read_sealed(project.root / OWNER)
    except UserError:
        return ""
    return str(body.get("file", ""))


def _file(project: Project) -> str:
    """The profile's file: relative to the clone, so that both may move together."""
    path = project.profile.path
    if path.parent == PACKAGED:
        return PACKAGED_AS + path.name
    return Path(os.path.relpath(path, project.repo)).as_posix()


def _path(project: Project, file: str) -> Path:
    inside = file.removeprefix(PACKAGED_AS)
    return PACKAGED / inside if inside != file else project.repo / file


def _has_name(path: Path, name: str) -> bool:
    """Whether a profile file still states this name; one that cannot be read at the moment keeps it."""
    try:
        return path.is_file() and stated_name(path) == name
    except UserError:
        return True
