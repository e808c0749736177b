"""Reuse of results by fingerprint: those of other profiles, or of the folder that key `store` names.

    artifacts/<other profile>/<stage>/            what the other profiles of this project published
    <store>/<stage>/<fingerprint>/                what every run that names the folder published
        MANIFEST.sha256  receipt.json  data/      in both, as a stage has them

A result is taken by links (store/links.py), read whole and checked against its manifest before it is published here.
Its receipt then says where it came from. Nothing is locked: an entry of the store appears and goes in one rename, so
two runs may put, take and prune at once, and a folder that goes away while it is taken counts as not there.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpt.build.declaration import Stage
from mmpt.build.fingerprint import Definition, fingerprint
from mmpt.build.project import Project
from mmpt.build.receipts import DATA, MANIFEST, RECEIPT, definition_of, read_receipt, subject_digest
from mmpt.gating import withdraw
from mmpt.store.atomic import publish_folder
from mmpt.store.canonical import seal, write_json
from mmpt.store.digests import Manifest
from mmpt.store.errors import UserError
from mmpt.store.links import link_folder
from mmpt.store.scan import scan
from mmpt.store.schema import validate

INCOMING, GOING = ".incoming-", ".going-"  # what a killed run or a killed prune leaves in the store
DAY = 86400.0
MADE_BY = ("body", "code", "packages", "runtime", "tools")  # what in a definition is not what a result was made of


@dataclass(frozen=True)
class Found:
    """A result with the wanted fingerprint.

    Args:
        place: folder that holds it as a stage's folder does.
        name: how a message calls it: "artifacts/trial", or the store's path.
    """

    place: Path
    name: str


@dataclass(frozen=True)
class Taken:
    """A result that was published from elsewhere. copied: bytes that could not be linked."""

    name: str
    copied: int

    def __str__(self) -> str:
        return f"taken from {self.name}" + (f", {size_text(self.copied)} copied" if self.copied else "")


def find(project: Project, stage: Stage, identity: str) -> Iterator[Found]:
    """Where a result of this fingerprint may be had, nearest first. A release is never had: it rests on a decision."""
    for found in () if stage.granted else _places(project, stage, identity):
        path = found.place / RECEIPT
        # A receipt of another fingerprint is not worth parsing: twenty profiles have one each.
        if identity.encode() in _bytes(path) and _fingerprint(path) == identity:
            yield found


def _places(project: Project, stage: Stage, identity: str) -> Iterator[Found]:
    for path in _of_other_profiles(project, stage):
        yield Found(path, f"artifacts/{path.parent.name}")
    if store := _store_for(project, stage):
        yield Found(store / stage.name / identity, str(store))


def _of_other_profiles(project: Project, stage: Stage) -> list[Path]:
    """Folders of the stage in the runs of the project's other profiles."""
    return sorted(path for path in project.root.parent.glob(f"*/{stage.name}") if path.parent != project.root)


def store_of(project: Project) -> Path | None:
    """The folder that the profile's key `store` names."""
    named = project.profile.data.get("store")
    return Path(named) if named else None


def _store_for(project: Project, stage: Stage) -> Path | None:
    """Where results of the stage are kept: nowhere what a compiler made for one machine, and no release."""
    return None if stage.granted or stage.tools else store_of(project)


def take(project: Project, stage: Stage, definition: Definition) -> Taken | None:
    """Publish a result of this very definition from where it is; None where there is none that is whole."""
    identity = fingerprint(definition)
    attempt = project.staging / f"out-{stage.name}-{os.getpid()}"
    for found in find(project, stage, identity):
        shutil.rmtree(attempt, ignore_errors=True)
        try:
            copied = link_folder(found.place / DATA, attempt / DATA)
            receipt = read_receipt(found.place / RECEIPT)
            shutil.copyfile(found.place / MANIFEST, attempt / MANIFEST)
        except (UserError, FileNotFoundError):  # it is replaced or pruned at this moment
            continue
        if receipt["predicate"]["fingerprint"] == identity and _whole(project, attempt, receipt):
            _publish(project, stage, attempt, receipt, found.name)
            with contextlib.suppress(PermissionError, FileNotFoundError):  # of another user: it counts as it was made
                os.utime(found.place / RECEIPT)  # when it was last used
            return Taken(found.name, copied)
        if (store := store_of(project)) and found.place.is_relative_to(store):
            remove(store, [found.place])  # damaged: what is built now takes its place
    shutil.rmtree(attempt, ignore_errors=True)
    return None


def earlier(project: Project, stage: Stage, definition: Definition) -> Iterator[Path]:
    """Data folders of whole results that the same code made of other inputs: this profile's, others', the store's."""
    store = _store_for(project, stage)
    kept = (store / stage.name).iterdir() if store and (store / stage.name).is_dir() else ()
    for place in (project.root / stage.name, *_of_other_profiles(project, stage), *sorted(kept)):
        try:
            receipt = read_receipt(place / RECEIPT)
            manifest = Manifest.parse((place / MANIFEST).read_text())
            same = all(definition_of(receipt)[key] == definition[key] for key in MADE_BY)
            whole = same and manifest.digest == subject_digest(receipt) and not manifest.verify(place / DATA)
        except (UserError, FileNotFoundError):
            continue
        if whole:
            yield place / DATA


def _whole(project: Project, attempt: Path, receipt: Mapping[str, Any]) -> bool:
    manifest = Manifest.parse((attempt / MANIFEST).read_text())
    return manifest.digest == subject_digest(receipt) and not manifest.verify(attempt / DATA, project.stat_cache)


def _publish(project: Project, stage: Stage, attempt: Path, receipt: dict[str, Any], source: str) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    del receipt["digest"]
    receipt["predicate"]["runDetails"]["taken"] = {"from": source, "on": now}
    receipt = seal(receipt)
    validate(receipt, "receipt", where=f"{stage.name}/{RECEIPT}")
    write_json(attempt / RECEIPT, receipt)
    withdraw(project.root)
    publish_folder(attempt, project.root / stage.name)
    project.stat_cache.moved(attempt / DATA, project.root / stage.name / DATA)


def offer(project: Project, stage: Stage, attempt: Path) -> Path | None:
    """Link what a stage just wrote into the store, before it is hashed: a link changes the ctime of what it links.

    Returns:
        A folder of the store, for ``keep``; None where the result is not kept.
    """
    store = _store_for(project, stage)
    if store is None:
        return None
    incoming = store / f"{INCOMING}{uuid.uuid4().hex}"
    link_folder(attempt / DATA, incoming / DATA)
    return incoming


def keep(project: Project, stage: Stage, incoming: Path | None, identity: str) -> None:
    """Give what ``offer`` linked the manifest and receipt that were published, and its name; the first one stays."""
    if incoming is None:
        return
    for name in (MANIFEST, RECEIPT):
        shutil.copyfile(project.root / stage.name / name, incoming / name)
    entry = incoming.parent / stage.name / identity
    entry.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # ENOTEMPTY, EEXIST: another run was first
        os.rename(incoming, entry)
    shutil.rmtree(incoming, ignore_errors=True)


@dataclass(frozen=True)
class Entry:
    """One result in the store.

    Args:
        held: a file of it is also some run's, so that removing the entry frees nothing.
        days: since it was put there or last taken.
    """

    path: Path
    bytes: int
    held: bool
    days: float

    @property
    def stage(self) -> str:
        return self.path.parent.name


def entries(store: Path) -> list[Entry]:
    """What the store holds, by stage and age."""
    found = [_look(path.parent) for path in store.glob(f"*/*/{RECEIPT}") if not path.parent.name.startswith(".")]
    return sorted(filter(None, found), key=lambda one: (one.stage, one.days))


def _look(path: Path) -> Entry | None:
    try:
        files = [(path / DATA / name).stat() for name in scan(path / DATA)]
        used = (path / RECEIPT).stat().st_mtime
    except FileNotFoundError:  # pruned by another one
        return None
    days = max(0.0, time.time() - used) / DAY
    return Entry(path, sum(one.st_size for one in files), any(one.st_nlink > 1 for one in files), days)


def unused(found: list[Entry], days: float) -> list[Entry]:
    """The entries that no run holds a link to and that nobody put or took for ``days``."""
    return [one for one in found if not one.held and one.days >= days]


def remove(store: Path, doomed: Iterable[Path]) -> None:
    """Remove entries, each in one rename, and what killed runs left more than a day ago."""
    for path in doomed:
        going = store / f"{GOING}{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):  # removed by another one
            os.rename(path, going)
        shutil.rmtree(going, ignore_errors=True)
    for path in [*store.glob(f"{INCOMING}*"), *store.glob(f"{GOING}*")]:
        if time.time() - path.stat().st_mtime > DAY:
            shutil.rmtree(path, ignore_errors=True)


def size_text(n: int) -> str:
    """A number of bytes for people: 16.4 GB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} bytes"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _fingerprint(path: Path) -> str:
    try:
        return read_receipt(path)["predicate"]["fingerprint"]
    except UserError:
        return ""
