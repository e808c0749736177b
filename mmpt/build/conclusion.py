"""What follows every run: the decision, the report, one line a gate, and the last line."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from mmpt.build.declaration import measured_by
from mmpt.build.project import Project
from mmpt.build.staleness import plan, told
from mmpt.build.tasks import DEFAULT_PROFILE, policy_of
from mmpt.gating import Verdict, decide, history
from mmpt.gating.text import gate_line
from mmpt.profile import PACKAGED
from mmpt.store.atomic import atomic_write
from mmpt.store.canonical import digest_json, read_json, write_json
from mmpt.store.digests import sha256_file
from mmpt.store.errors import EXIT_CANNOT_DECIDE, UserError

REPORT_CODE = ("mmpt.report:build_report", "mmpt.report:html")
REPORT_FILES = ("report.json", "index.html", "report.md", "report.txt", "junit.xml")


def conclude(
    project: Project, *, strict: bool = False, fresh: Collection[str] = (), brief: bool = False
) -> int:
    """Decide, write decision.json and the report, print the gates and the decision; returns its exit code.

    GO on measurements of an older profile or older code is no GO: it is CANNOT-DECIDE until they are made
    again.

    Args:
        strict: ignore waivers.
        fresh: stages that this process already found fresh, or built.
        brief: print the decision only; for a run that bad input stopped, whose message should stand out.
    """
    decision = decide(project.root, policy_of(project, strict), project.profile.data)
    word, code = decision.decision, decision.exit_code
    old = stale_measurements(project, fresh)
    if old and word == "GO":  # NO-GO and CANNOT-DECIDE stand as they are
        word, code = "CANNOT-DECIDE", EXIT_CANNOT_DECIDE
        write_json(project.root / "decision.json", {**decision.body, "decision": word})
    write_report(project, old)
    if not brief:
        print_gates(decision.verdicts)
    for name, why in () if brief else old.items():
        # Of stages without a result the gates have said it.
        if (project.root / name).exists() or decision.decision == "GO":
            print(f"stale: {name}: {why}")
    print(f"report: {(project.root / 'report' / 'index.html').relative_to(project.repo)}")
    print(word, flush=True)
    return code


def stale_measurements(project: Project, fresh: Collection[str] = ()) -> dict[str, str]:
    """Stage that a gate rests on, of another profile, code or input than the present -> why."""
    return {
        one.stage.name: told(one.reasons) if one.reasons else f"waits for {', '.join(one.waits_for)}"
        for one in plan(project, fresh)
        if one.state != "fresh" and _decides(project, one.stage.name)
    }


def _decides(project: Project, name: str) -> bool:
    """Whether a gate rests on this stage, directly or through its users."""
    users = (stage.name for stage in project.stages if name in stage.inputs)
    return name in measured_by(project.stages).values() or any(_decides(project, user) for user in users)


def print_gates(verdicts: Iterable[Verdict]) -> None:
    """One line a gate: value against bound."""
    for verdict in verdicts:
        print(gate_line(verdict.to_json()))


def write_report(project: Project, stale: Mapping[str, str]) -> Path:
    """Render the report, unless what it shows and the code that draws it are what they were.

    Args:
        stale: as ``stale_measurements`` finds it.
    """
    folder, stamp = project.root / "report", project.state / "report.json"
    key = digest_json([_report_key(project), dict(stale), command_of(project)])
    if not _current(folder, stamp, key):
        # Brings jinja, numpy and more: only where something is drawn.
        from mmpt.report import build_report, html, junit, markdown, record, terminal

        record(project.root)
        report = build_report(project.root, project.stages, command_of(project), stale)
        write_json(folder / "report.json", report)
        for name, text in (
            ("index.html", html(report, project.root)),
            ("report.md", markdown(report)),
            ("report.txt", terminal(report)),
            ("junit.xml", junit(report)),
        ):
            atomic_write(folder / name, text.encode())
        write_json(stamp, {"key": key, "files": {name: sha256_file(folder / name) for name in REPORT_FILES}})
    return folder / "index.html"


def command_of(project: Project) -> str:
    """What a person types in the clone to build this profile: "doit", "doit profile=trial"."""
    path = project.profile.path
    if path.parent == PACKAGED:
        return "doit" if path.stem == DEFAULT_PROFILE else f"doit profile={path.stem}"
    return f"doit profile={os.path.relpath(path, project.repo)}"


def _report_key(project: Project) -> str:
    shown = [
        *sorted(project.root.glob("*/receipt.json")),
        *sorted(project.root.glob("gates/*/verdict.json")),
        project.root / "decision.json",
        history.history_path(project.root),
    ]
    drawn_with = [sha256_file(path) for path in sorted((Path(__file__).parents[1] / "report").glob("page.*"))]
    digests = {
        path.relative_to(project.root).as_posix(): project.stat_cache.digest(path)
        for path in shown
        if path.exists()
    }
    return digest_json([digests, drawn_with, [project.code.closure(body)[0] for body in REPORT_CODE]])


def _current(folder: Path, stamp: Path, key: str) -> bool:
    try:
        known = read_json(stamp)
    except UserError:
        return False
    files = known.get("files", {})
    return (
        known.get("key") == key
        and set(files) == set(REPORT_FILES)
        and all(
            (folder / name).exists() and sha256_file(folder / name) == value for name, value in files.items()
        )
    )
