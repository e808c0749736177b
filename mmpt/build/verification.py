"""`doit verify`: checks every published byte against the digest recorded for it (artifact_index.py), without a cache.

It finds accidents and edits by hand. A rewrite of a file and of everything that vouches for it is not found
by this, but by `--deep` as far as evidence, code and profile contradict them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmpt.build.artifact_index import (
    DECISION,
    DRAWN,
    GATES,
    HISTORY,
    OWNER,
    REPORT,
    RUNS,
    VERDICT,
    report_files,
    strays,
)
from mmpt.build.decision_summary import stale_measurements
from mmpt.build.declaration import Stage
from mmpt.build.fingerprint import define, portable
from mmpt.build.ownership import wrong_owner
from mmpt.build.policy import policy_of
from mmpt.build.project import Project
from mmpt.build.receipts import (
    DATA,
    MANIFEST,
    RECEIPT,
    check_outputs,
    definition_of,
    read_receipt,
    subject_digest,
)
from mmpt.build.report_writer import draw
from mmpt.build.staleness import differences
from mmpt.build.withdrawal import released
from mmpt.gating import decide, evaluate_gate, read_decision, read_verdict
from mmpt.gating.history import check_history
from mmpt.gating.judged import release_problems
from mmpt.store.canonical import read_sealed
from mmpt.store.digests import Manifest, sha256_bytes
from mmpt.store.errors import UserError
from mmpt.store.index import INDEX, read_index
from mmpt.store.schema import validate

Findings = Iterator[tuple[str, list[str]]]


def verify(project: Project, *, deep: bool = False) -> Findings:
    """Yield (what was looked at, what is wrong with it, each line beginning with the file's path below
    artifacts/<profile>) for every stage that is published, then for verdicts, decision, report and index.

    Args:
        deep: also the outputs' schemas, the fingerprints against the present profile, code and inputs, the
            verdicts and the decision, derived again from evidence and policy, and the report, drawn again.
    """
    if not project.root.is_dir():
        return
    sound = True
    for name, found in itertools.chain(_stages(project, deep), _gates(project, deep)):
        sound = sound and not found
        yield name, found
    if _has_report(project):
        found = _report(project, deep)
        # A report of what is itself in doubt would only repeat the doubt.
        yield "report", found or (_drawn_again(project) if deep and sound else [])
    yield "index", _index(project)


def _has_report(project: Project) -> bool:
    """Whether there is more than the record of past runs: a run takes its pages away before it changes anything."""
    folder = project.root / REPORT
    return folder.is_dir() and any(path.name != RUNS for path in folder.iterdir())


def _stages(project: Project, deep: bool) -> Findings:
    for stage in project.stages:
        if (project.root / stage.name).exists():
            found = _stage(project, stage, deep)
            yield stage.name, found + (_content(project, stage) if deep and not found else [])


def _gates(project: Project, deep: bool) -> Findings:
    strict = _strict(project) if deep else None
    for folder in sorted((project.root / GATES).glob("*/")):
        if (folder / VERDICT).exists():
            yield f"gate {folder.name}", _verdict(project, folder.name, strict)
    yield "history", [f"{GATES}/{HISTORY}: {one}" for one in check_history(project.root)]
    if (project.root / OWNER).exists():
        yield "owner", wrong_owner(project)
    if (project.root / DECISION).exists():
        yield "decision", _decision(project, deep)
    if released(project):
        yield "grant", _grant(project)


def _stage(project: Project, stage: Stage, deep: bool) -> list[str]:
    folder = project.root / stage.name
    try:
        receipt = read_receipt(folder / RECEIPT, deep=deep)
    except UserError as error:
        return [_line(f"{stage.name}/{RECEIPT}", error)]
    try:
        text = (folder / MANIFEST).read_bytes()
    except OSError as error:
        return [f"{stage.name}/{MANIFEST}: {error.strerror}"]
    if sha256_bytes(text) != subject_digest(receipt):
        return [f"{stage.name}/{MANIFEST}: edited, it is not the one its receipt names"]
    manifest = Manifest.parse(text.decode(), folder / MANIFEST)
    return [f"{stage.name}/{DATA}/{one}" for one in manifest.verify(folder / DATA)]


def _content(project: Project, stage: Stage) -> list[str]:
    wrong = []
    try:
        check_outputs(stage, project.root / stage.name / DATA)
    except UserError as error:
        wrong.append(str(error))
    # another table may release other files
    adapter = "adapter/*.safetensors" in [output.glob for output in stage.outputs]
    if stage.granted and adapter and not wrong:
        wrong += release_problems(project.root)
    receipt = read_receipt(project.root / stage.name / RECEIPT)
    return wrong + [f"stale: {one}" for one in differences(definition_of(receipt), define(project, stage))]


def _strict(project: Project) -> bool:
    """Whether the decision on disk, and so the verdicts, were made without waivers."""
    try:
        return bool(read_decision(project.root)["strict"])
    except UserError:
        return False


def _verdict(project: Project, gate: str, strict: bool | None) -> list[str]:
    """Args: strict: decide again, with or without waivers; None: only read it."""
    name = f"{GATES}/{gate}/{VERDICT}"
    try:
        if strict is None:
            read_sealed(project.root / name)
            return []
        known = read_verdict(project.root, gate)
        now = evaluate_gate(gate, project.root, policy_of(project, strict), write=False)
    except UserError as error:
        return [_line(name, error)]
    if now.verdict != known["verdict"]:
        return [f"{name}: says {known['verdict']}, evidence and policy say {now.verdict}"]
    return _same(name, known, now.to_json())


def _decision(project: Project, deep: bool) -> list[str]:
    try:
        if not deep:
            read_sealed(project.root / DECISION)
            return []
        known = read_decision(project.root)
    except UserError as error:
        return [_line(DECISION, error)]
    policy = policy_of(project, known["strict"])
    stale = stale_measurements(project)
    now = decide(project.root, policy, portable(project.profile.data), stale=stale, write=False)
    if now.decision != known["decision"]:
        return [f"{DECISION}: says {known['decision']}, evidence and policy say {now.decision}"]
    return _same(DECISION, known, dict(now.body))


def _grant(project: Project) -> list[str]:
    """A release stands on a GO alone."""
    try:
        said = read_decision(project.root)["decision"]
    except UserError:
        said = "nothing"
    if said == "GO":
        return []
    return [f"{folder.name}: it is there, and the decision says {said}: run doit" for folder in released(project)]


def _same(name: str, known: dict[str, Any], now: dict[str, Any]) -> list[str]:
    other = sorted(key for key in {*known, *now} if known.get(key) != now.get(key))
    return [f"{name}: not what evidence and policy give: {', '.join(other)}"] if other else []


def _report(project: Project, deep: bool) -> list[str]:
    try:
        known = read_sealed(project.root / REPORT / DRAWN)
        if deep:
            validate(known, "drawn", where=DRAWN)
    except UserError as error:
        return [_line(f"{REPORT}/{DRAWN}", error)]
    found, files = report_files(project), known["files"]
    names = sorted(name for name in {*found, *files} if found.get(name) != files.get(name))
    from mmpt.report.runs import wrong_runs  # what draws comes with it: not for commands that only list

    # A report drawn again vouches for the record of runs as it is; the record's own digests tell of older edits.
    runs = [f"{REPORT}/{RUNS}: {one}" for one in wrong_runs(project.root)]
    return runs + [
        f"{REPORT}/{name}: " + ("missing" if name not in found else "edited" if name in files else "not published")
        for name in names
    ]


def _drawn_again(project: Project) -> list[str]:
    """The report against one drawn now, where that writes nothing: else it would copy media.

    Asked where nothing else is in doubt, so no measurement is stale.
    """
    gathered = any((project.root / stage.name / DATA).is_dir() for stage in project.stages if stage.reported)
    if not gathered or not (project.root / DECISION).exists():
        return []
    try:
        drawn = draw(project, {})
    except UserError as error:
        return [_line(REPORT, error)]
    return [
        f"{REPORT}/{name}: not what is drawn from decision, verdicts and data now"
        for name, data in drawn.items()
        if (project.root / REPORT / name).read_bytes() != data
    ]


def _index(project: Project) -> list[str]:
    """What is gone, and what nobody published. A file that differs from the index is not named: it vouches
    for itself, and is newer where a run was killed before its end.
    """
    wrong = [f"{name}: not published" for name in strays(project) if not name.startswith(f"{REPORT}/")]
    try:
        known = read_index(project.root)
    except UserError as error:
        return [*wrong, _line(INDEX, error)]
    for name in known:
        path = project.root / name
        # What drawn.json vouches for is missed by it, if it is there itself.
        told = name.startswith(f"{REPORT}/") and (project.root / REPORT / DRAWN).exists()
        if not path.is_file() and not told and not _told_by_stage(path):
            wrong.append(f"{name}: missing")
    history = f"{GATES}/{HISTORY}"
    path = project.root / history
    sound = path.is_file() and not check_history(project.root)
    if history in known and sound and not _began(path, known[history]):
        wrong.append(f"{history}: lines are missing at its end")
    return wrong


def _told_by_stage(path: Path) -> bool:
    """Whether the stage's own check has named it: its folder is there without it."""
    return path.name in (MANIFEST, RECEIPT) and path.parent.exists()


def _began(path: Path, digest: str) -> bool:
    """Whether some first lines of ``path``, or all, have that digest."""
    value = hashlib.sha256()
    for line in path.read_bytes().splitlines(keepends=True):
        value.update(line)
        if value.hexdigest() == digest:
            return True
    return False


def _line(name: str, error: UserError) -> str:
    found = f", found {error.found}" if error.found else ""
    return f"{name}: {error.what}{found}"
