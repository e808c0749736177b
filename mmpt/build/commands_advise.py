"""`doit advise`: one diagnosis over all gates, and a profile to run next."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mmpt.build.commandline import OurCommand, Parser, user_path
from mmpt.build.decision_summary import DecisionSummary, look
from mmpt.build.project import Project
from mmpt.profile import PACKAGED, Profile
from mmpt.report.diagnosis import Diagnosis, Facts, diagnose, proposal
from mmpt.store.atomic import atomic_write
from mmpt.store.canonical import read_json
from mmpt.store.errors import EXIT_GO, UserError
from mmpt.store.jsonl import iter_jsonl


class Advise(OurCommand):
    name = "advise"
    doc_purpose = "one diagnosis over all gates, and with --write a profile to run next"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument(
            "--write", type=user_path, metavar="FILE", help="write the proposal as a profile that extends this one"
        )
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        target = None if options.write is None else Path(options.write)
        if target is not None and target.exists():
            raise UserError("the file is there already", where="--write", found=target, fix="name a new file")
        concluded = look(project)
        found = diagnose(facts_of(project, concluded))
        changes = proposal(found)
        self.say(*advice_lines(concluded.headline, found, changes))
        self.result = {
            "headline": concluded.headline,
            "diagnoses": [one.to_json() for one in found],
            "changes": changes,
        }
        if target is not None:
            if not changes:
                raise UserError("there is nothing to propose", where="--write", found=concluded.headline)
            atomic_write(target, next_profile(project.profile, target, changes).encode())
            self.say(f"written: {target}; run `doit profile={target}`")
        project.save_caches()
        return EXIT_GO


def facts_of(project: Project, concluded: DecisionSummary) -> Facts:
    """What the artifacts of a run say; parts that are not built yet are empty."""
    verdicts = [one.to_json() for one in concluded.verdicts]
    checks = [{**check, "gate": one["gate"]} for one in verdicts for check in one["checks"]]
    root = project.root
    metrics: dict[tuple[str, str, str], Any] = {}
    for path in root.glob("*/data/evidence/*.json"):
        body = read_json(path)
        metrics |= {
            (body["gate"], one["name"], one["slice"]): one["value"]
            for one in body["metrics"]
            if one["value"] is not None
        }
    return Facts(project.profile.data, checks, metrics, _validation(root), _records(root / "split" / "data"))


def _validation(root: Path) -> dict[str, list[tuple[int, float]]]:
    path = root / "train" / "data" / "checkpoints.json"
    curves: dict[str, list[tuple[int, float]]] = {}
    if path.is_file():
        for name, losses in read_json(path)["val_loss"].items():
            for task, loss in (losses or {}).items():
                curves.setdefault(task, []).append((int(name.removeprefix("step_")), loss))
    return {task: sorted(curve) for task, curve in curves.items()}


def _records(split: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    path = split / "split.jsonl"
    for row in iter_jsonl(path) if path.is_file() else ():
        counts[row["modality"]] = counts.get(row["modality"], 0) + 1
    return counts


def advice_lines(headline: str, found: list[Diagnosis], changes: Mapping[str, Any]) -> list[str]:
    """The diagnoses, the first cause first, then one proposal."""
    if not found:
        return [headline, "no known kind of failure: see `doit gates` for what each gate measured"]
    lines = [headline]
    for at, one in enumerate(found, 1):
        lines += ["", f"{at}. {one.says} ({one.kind})", *(f"   - {line}" for line in one.evidence)]
        lines += [f"   it takes: {one.needs}"] if one.needs else []
        lines += [f"   conflict: {line}" for line in one.conflicts]
    lines += ["", "proposal" if changes else "no setting helps here"]
    return [*lines, *(f"  {key}: {value}" for key, value in changes.items())]


def next_profile(profile: Profile, target: Path, changes: Mapping[str, Any]) -> str:
    """The proposal as a profile: it extends the present one and states only what changes."""
    packaged = profile.path.parent == PACKAGED
    parent = profile.path.stem if packaged else os.path.relpath(profile.path, target.resolve().parent)
    body: dict[str, Any] = {"extends": parent, "name": f"{profile.name}-next"[:100]}
    for dotted, value in changes.items():
        node = body
        *sections, key = dotted.split(".")
        for section in sections:
            node = node.setdefault(section, {})
        node[key] = value
    head = f"# Written by `doit advise` from the gates of run {profile.name}.\n"
    return head + yaml.safe_dump(body, sort_keys=False)
