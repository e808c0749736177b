"""Runs the faults: `python -m tests.faults.run [--only ID ..] [--corpus NAME ..] [--minutes N] [--again]`.

Each corpus has a clean run, made once in a copy of the repository below --work. A fault is put into a copy of that
copy, whose artifacts are links to the clean ones, so that only what the mutation can change is built again. First the
stage that measures the expected gate is built and the gates are decided; where the expected check holds, all else is
built too, to see whether another gate stops the fault.

What came out is kept in results.json, one part for each fault and corpus; a part that is there and is of the same
mutation is not run again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpt.gating.scripts import load_scripts
from tests.faults.catalogue import FAULTS, Fault

REPO = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.json")
PROFILES = {
    "generated": "tests/faults/generated.yaml",
    "captions": "tests/faults/captions.yaml",
    "imported": "artifacts/corpora/imported/brought.yaml",
}
LEFT_OUT = shutil.ignore_patterns(
    "artifacts", ".git", "*.pyc", "__pycache__", ".venv*", "*.egg-info", ".pytest_cache", ".hypothesis", ".*_cache"
)


@dataclass(frozen=True)
class Project:
    """A copy of the repository, and the profile that is built in it."""

    folder: Path
    corpus: str

    @property
    def profile(self) -> str:
        return f"profile={PROFILES[self.corpus]}"

    def python(self, *words: str) -> tuple[int, str]:
        """(exit code, output) of this Python in the copy."""
        environment = os.environ | {"PYTHONPATH": str(self.folder), "CI": "true"}
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=self.folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return done.returncode, done.stdout

    def make(self) -> None:
        """Make what the profile reads."""
        code, output = self.python("tests.faults.corpora", self.corpus, f"artifacts/corpora/{self.corpus}")
        if code:
            raise RuntimeError(output)

    def doit(self, *words: str) -> tuple[int, str]:
        return self.python("doit", *words, self.profile)

    def failing(self) -> tuple[str, int, list[str]]:
        """(decision, exit code, checks that block as "<gate>.<check>") of the artifacts as they are."""
        code, output = self.doit("gates", "--json")
        said = json.loads(output[output.index("{") :])
        if "result" not in said:
            raise RuntimeError(output)
        told = said["result"]
        found = [
            f"{gate['gate']}.{check['id']}"
            for gate in told["gates"]
            for check in gate["checks"]
            if check["severity"] == "block" and check["status"] in ("fail", "cannot_decide")
        ]
        return told["decision"], code, sorted(set(found))


class Lab:
    """Clean runs and mutants below one folder."""

    def __init__(self, work: Path):
        self.work = work

    def clean(self, corpus: str) -> Project:
        """The clean run of a corpus, brought up to date with the source."""
        project = Project(self.work / "clean" / corpus, corpus)
        renew(project.folder)
        if corpus != "generated" and not (project.folder / "artifacts/corpora" / corpus).is_dir():
            project.make()
        return project

    def mutant(self, fault: Fault, clean: Project) -> Project:
        """The clean copy with one fault."""
        project = Project(self.work / "mutant", clean.corpus)
        shutil.rmtree(project.folder, ignore_errors=True)
        shutil.copytree(clean.folder, project.folder, symlinks=True, ignore=LEFT_OUT)
        link_artifacts(clean.folder / "artifacts", project.folder / "artifacts")
        put(fault, project.folder)
        if fault.area == "imported":
            project.make()
        return project


def renew(folder: Path) -> None:
    """Bring a copy's source up to date; its artifacts stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name != "artifacts":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(REPO, folder, symlinks=True, ignore=LEFT_OUT, dirs_exist_ok=True)


def link_artifacts(source: Path, target: Path) -> None:
    """Published data by links, which the build never writes into; what it appends to or rewrites as copies."""

    def one(here: str, there: str) -> None:
        shared = "data" in Path(here).relative_to(source).parts or "corpora" in Path(here).relative_to(source).parts
        (os.link if shared else shutil.copy2)(here, there)

    shutil.copytree(
        source, target, symlinks=True, copy_function=one, ignore=shutil.ignore_patterns(".staging", "release", "lock")
    )


def put(fault: Fault, folder: Path) -> None:
    """Make the one change."""
    path = folder / fault.file
    text = path.read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        raise ValueError(f"{fault.id}: {fault.file} has its text {text.count(fault.old)} times")
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")


def stage_of(gate: str) -> str:
    """The stage that measures a gate."""
    return load_scripts(REPO / "gates")[gate].body["stage"]


def look(project: Project, before: Sequence[str], output: str, code: int) -> dict[str, Any]:
    """What the gates say of a mutant that they did not say of the clean run."""
    decision, decided, failing = project.failing()
    refused = re.findall(r"^(\w+) +REFUSED: (.*)$", output, re.M)
    broke = re.findall(r"^(\w+) +BROKE: (.*)$", output, re.M)
    return {
        "decision": decision,
        "exit": code if code in (1, 2) else decided,
        "failing": [one for one in failing if one not in before],
        "refused": [f"{stage}: {text}" for stage, text in refused],
        "broke": [f"{stage}: {text}" for stage, text in broke],
    }


def stopped(fault: Fault, seen: dict[str, Any]) -> str:
    """expected, other (a miss), crash, or none."""
    if fault.gate and fault.expects in seen["failing"]:
        return "expected"
    stage, _, words = fault.expects.partition(": ")
    if words and any(one.startswith(f"{stage}: ") and words in one for one in seen["refused"]):
        return "expected"
    if seen["failing"] or seen["refused"]:
        return "other"
    return "crash" if seen["broke"] else "none"


def examine(fault: Fault, mutant: Project, before: Sequence[str], upto: str = "") -> dict[str, Any]:
    """Build a mutant as far as it takes, or at most to stage `upto`, and what came of it."""
    began = time.monotonic()
    seen: dict[str, Any] = {}
    for target in [*([stage_of(fault.gate)] if fault.gate else []), upto]:
        code, output = mutant.doit(*[target] * bool(target))
        seen = look(mutant, before, output, code)
        if stopped(fault, seen) == "expected" or seen["broke"] or seen["refused"]:
            break
    return {
        "mutation": fault.digest,
        "expects": fault.expects,
        "stopped": stopped(fault, seen),
        **seen,
        "seconds": round(time.monotonic() - began),
        "date": datetime.date.today().isoformat(),
    }


def read_results() -> dict[str, dict[str, Any]]:
    """Result of each part, by "<fault> <corpus>"."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}


def keep(part: str, result: dict[str, Any]) -> None:
    """Put one result into results.json."""
    results = {**read_results(), part: result}
    text = json.dumps(dict(sorted(results.items())), indent=1) + "\n"
    RESULTS.with_suffix(".new").write_text(text, encoding="utf-8")
    os.replace(RESULTS.with_suffix(".new"), RESULTS)


def parts(only: Sequence[str] = (), corpora: Sequence[str] = ()) -> Iterator[tuple[Fault, str]]:
    """What is to be run, corpus by corpus."""
    for corpus in corpora or PROFILES:
        for fault in FAULTS:
            if corpus in fault.corpora and (not only or fault.id in only):
                yield fault, corpus


def is_there(fault: Fault, corpus: str, results: dict[str, dict[str, Any]]) -> bool:
    """Whether the part has a result of this very mutation."""
    return results.get(f"{fault.id} {corpus}", {}).get("mutation") == fault.digest


@dataclass(frozen=True)
class Clean:
    """A clean run.

    Args:
        failing: checks that block in it; a mutant must fail another one.
        state: its decision, or where it has none yet the stage that it was built to: "to shard_audit".
    """

    project: Project
    failing: tuple[str, ...]
    state: str


def built(lab: Lab, corpus: str, upto: str = "") -> Clean:
    """The clean run, built whole or as far as stage `upto`."""
    clean = lab.clean(corpus)
    code, output = clean.doit(*[upto] * bool(upto))
    if code in (1, 2):
        raise RuntimeError(output)
    decision, _, failing = clean.failing()
    print(f"clean {corpus}: {decision} {' '.join(failing)}", flush=True)
    return Clean(clean, tuple(failing), f"to {upto}" if upto and decision != "GO" else decision)


def main(words: Sequence[str] | None = None) -> int:
    """Run what is not there yet; 1 if a fault was not stopped by its gate."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.run", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], help="faults by id")
    parser.add_argument("--corpus", nargs="*", default=[], choices=list(PROFILES))
    parser.add_argument("--upto", default="", help="build clean runs and mutants no further than this stage")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no fault after so many")
    parser.add_argument("--again", action="store_true", help="run also what is there")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "mmpt-faults")
    asked = parser.parse_args(words)
    lab, began, missed = Lab(asked.work), time.monotonic(), 0
    clean: dict[str, Clean] = {}
    for fault, corpus in parts(asked.only, asked.corpus):
        if is_there(fault, corpus, read_results()) and not asked.again:
            continue
        if time.monotonic() - began > 60 * asked.minutes:
            print("no time left")
            break
        if corpus not in clean:
            clean[corpus] = built(lab, corpus, asked.upto)
        mutant = lab.mutant(fault, clean[corpus].project)
        result = {**examine(fault, mutant, clean[corpus].failing, asked.upto), "clean": clean[corpus].state}
        if asked.upto and result["stopped"] == "none":
            print(f"{fault.id} {corpus}: not stopped up to {asked.upto}, not kept", flush=True)
            continue
        keep(f"{fault.id} {corpus}", result)
        missed += bool(fault.expects) and result["stopped"] != "expected"
        told = " ".join([*result["failing"][:6], *result["refused"][:1], *result["broke"][:1]])
        print(f"{fault.id} {corpus}: {result['stopped']}, exit {result['exit']}, {result['seconds']} s: {told}")
        sys.stdout.flush()
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
