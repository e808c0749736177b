"""What a script in gates/ does when it is run: the verdict of its gate, as `doit gates` shows it, and as exit code."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mmpt.build.decision_summary import stale_measurements
from mmpt.build.policy import policy_of
from mmpt.build.project import Project
from mmpt.gating import Verdict, evaluate_gate
from mmpt.gating.decision import EXIT_OF_VERDICT
from mmpt.gating.scripts import load_script
from mmpt.gating.text import verdict_lines
from mmpt.store.errors import EXIT_CANNOT_DECIDE, EXIT_GO, EXIT_NO_GO, UserError


def main(file: str, argv: Sequence[str] | None = None) -> int:
    """Decide the gate of the script ``file``; returns 0 GO, 10 NO_GO, 20 CANNOT_DECIDE, 2 for a wrong call.

    Args:
        argv: arguments; default: the command line's.
    """
    path = Path(file).resolve()
    try:
        script = load_script(path)
        options = _parser(script.body["title"]).parse_args(argv)
        project = _project(path.parents[1], options.profile)
        verdict = _verdict(project, script.body["id"], strict=options.strict)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    body = verdict.to_json()
    print(json.dumps(body, indent=1) if options.json else "\n".join(verdict_lines(body)))
    return EXIT_OF_VERDICT[verdict.verdict]


def _parser(title: str) -> argparse.ArgumentParser:
    codes = f"exit code: {EXIT_GO} GO, {EXIT_NO_GO} NO_GO, {EXIT_CANNOT_DECIDE} CANNOT_DECIDE, 2 a wrong call"
    parser = argparse.ArgumentParser(description=title, epilog=codes, allow_abbrev=False)
    parser.add_argument(
        "profile", nargs="?", default="profile=smoke", metavar="profile=NAME", help="packaged name or path"
    )
    parser.add_argument("--strict", action="store_true", help="ignore waivers, refuse softenings of this gate")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    return parser


def _project(clone: Path, word: str) -> Project:
    """The project of a profile in the clone that the script lies in, whatever the present folder is."""
    key, _, name = word.partition("=")
    if key != "profile" or not name:
        raise UserError("unknown argument", found=word, expected="profile=NAME")
    chosen = str(Path(name).resolve()) if Path(name).is_file() else name  # a path counts from the present folder
    with _in(clone):
        spec = importlib.util.spec_from_file_location("dodo", clone / "dodo.py")
        if spec is None or spec.loader is None or not (clone / "dodo.py").is_file():
            raise UserError("no dodo.py beside gates/", where=clone)
        dodo = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(dodo)
        return dodo.project(chosen)


@contextlib.contextmanager
def _in(folder: Path) -> Iterator[None]:
    """Work in the clone: dodo.py and what it imports lie there."""
    sys.path.insert(0, str(folder))
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _verdict(project: Project, gate_id: str, *, strict: bool) -> Verdict:
    """Decided on fresh evidence alone: what is stale cannot be decided, and strict refuses what is softened."""
    policy = policy_of(project, strict)
    verdict = evaluate_gate(gate_id, project.root, policy, write=False)
    project.save_caches()
    stale = stale_measurements(project).get(verdict.stage, "")
    if verdict.good and stale and verdict.verdict != "NOT_APPLICABLE":
        return replace(verdict, verdict="CANNOT_DECIDE", reason=f"stale: {verdict.stage}: {stale}")
    softened = [one for one in policy.softenings if one.what.startswith(f"{gate_id}.")]
    if strict and verdict.good and softened:
        told = "; ".join(f"{one.what} by {one.where}" for one in softened)
        return replace(verdict, verdict="NO_GO", reason=f"strict, and softened: {told}")
    return verdict
