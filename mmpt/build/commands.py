"""The commands of `doit`, declared in pyproject.toml. Each reads its words itself (commandline.py)."""

from __future__ import annotations

import argparse
import getpass
import importlib
import shlex
import shutil
import signal
import sys
from collections.abc import Container
from contextlib import AbstractContextManager
from typing import Any, NoReturn

from doit.cmd_run import Run as DoitRun

from mmpt.build.commandline import OurCommand, Parser
from mmpt.build.conclusion import conclude, print_gates, stale_measurements, write_report
from mmpt.build.project import Project
from mmpt.build.receipts import RECEIPT
from mmpt.build.staleness import Reason, plan, reasons
from mmpt.build.tasks import RUN, Reporter, policy_of
from mmpt.build.verification import verify
from mmpt.gating import decide, evaluate_all, evaluate_gate, read_history, waive
from mmpt.gating.decision import EXIT
from mmpt.gating.decision import conclude as decision_word
from mmpt.store.errors import EXIT_BROKE, EXIT_GO, UserError
from mmpt.store.lock import exclusive


def held(project: Project) -> AbstractContextManager[None]:
    """The lock of a project's artifacts, for the commands that write there."""
    return exclusive(project.state / "lock", shlex.join(["doit", *sys.argv[1:]]))


class Run(OurCommand, DoitRun):
    name = "run"
    doc_purpose = "build what is stale (or the named stages and what they need), decide, report"
    words_doc = "[STAGE ...]"
    takes = (0, 99)

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument(
            "-s",
            "--single",
            action="store_true",
            help="only the named stages, not what they need; gates still hold",
        )
        parser.add_argument(
            "-a", "--always", action="store_true", help="build the named stages even if they are fresh"
        )
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        if (options.single or options.always) and not words:
            raise UserError(
                "names no stage",
                where="doit run",
                found="-s or -a alone",
                fix="say which, e.g. `doit -a train`",
            )
        names = [project.stage(word).name for word in words]
        policy_of(project)  # a bad policy is better refused before the first stage than after it
        for signum in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, _interrupt)
        with held(project):
            _clear_staging(project)
            self._build(options, names)
            _summary(project.names)
            code = conclude(project, fresh={*RUN.fresh, *RUN.built}, brief="refused" in RUN.failed.values())
            if RUN.built:
                plan(project)  # hashes what was built, so that the next run need only look at stats
            project.save_caches()
        return RUN.exit_code or code

    def _build(self, options: argparse.Namespace, names: list[str]) -> None:
        RUN.always = tuple(names) if options.always else ()
        params, _ = self.cmdparser.parse([])
        params.update({"reporter": Reporter(RUN), "continue": True, "single": options.single, "verbosity": 2})
        DoitRun.execute(self, params, names)


def _interrupt(signum: int, _: Any) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(signum).name)


def _clear_staging(project: Project) -> None:
    """Remove attempts of killed runs that cannot be adopted; folders to resume from stay."""
    for attempt in project.staging.glob("out-*"):
        if not (attempt / RECEIPT).exists():
            shutil.rmtree(attempt)


def _summary(stages: Container[str]) -> None:
    waiting = {name: causes for name, causes in RUN.waiting.items() if name in stages}
    if RUN.failed and waiting:  # they all wait for what failed; its own message should stand out
        print(f"not run: {len(waiting)} stages, which wait for {', '.join(RUN.failed)}")
    for name, causes in () if RUN.failed else waiting.items():
        print(f"not run: {name} waits for {_first(causes.split())}")
    for name, status in RUN.failed.items():
        print(f"failed: {name} ({status})")
    print(
        f"{len(RUN.fresh)} fresh, {len(RUN.built) + len(RUN.stale)} built, {len(RUN.failed)} failed",
        flush=True,
    )


def _first(names: list[str], most: int = 5) -> str:
    return " ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class List(OurCommand):
    name = "list"
    doc_purpose = "every stage with one line"

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        for stage in project.stages:
            gates = f"  [{' '.join(stage.measures)}]" if stage.measures else ""
            print(f"{stage.name:<16} {stage.doc}{gates}")
        return EXIT_GO


class Plan(OurCommand):
    name = "plan"
    doc_purpose = "what a run would do, and why; runs nothing"

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        for one in plan(project):
            shown = [f"    {reason}" for reason in one.reasons]
            shown += (
                [f"    if {' or '.join(one.waits_for)} comes out different"] if one.state == "may run" else []
            )
            print("\n".join([f"{one.stage.name:<16} {one.state}", *shown]))
        project.save_caches()
        return EXIT_GO


class Why(OurCommand):
    name = "why"
    doc_purpose = "why a stage would run, digest by digest, up to the first cause"
    words_doc = "STAGE"
    takes = (1, 1)

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        lines = _causes(project, project.stage(words[0]).name, "", {})
        print(
            "\n".join(lines)
            if lines
            else f"{words[0]} is fresh: its receipt matches the profile, code, inputs and outputs"
        )
        project.save_caches()
        return EXIT_GO


def _causes(project: Project, name: str, indent: str, told: dict[str, bool]) -> list[str]:
    """A stage's own reasons and, below each input that is not fresh, that input's; every stage is told once.

    Args:
        told: stage -> whether it is not fresh, for the stages that were already looked at.
    """
    own, lines = reasons(project, project.names[name]), []
    for source in project.names[name].inputs:
        if source in told:
            lines += [f"{indent}  because of {source} (above)"] if told[source] else []
        elif below := _causes(project, source, indent + "    ", told):
            lines += [f"{indent}  because of {source}", *below]
    told[name] = bool(own or lines)
    if not told[name]:
        return []
    return [
        f"{indent}{name}: {'runs' if own else 'may run'}",
        *(f"{indent}  {_explained(reason)}" for reason in own),
        *lines,
    ]


def _explained(reason: Reason) -> str:
    return f"{reason}" + ("  (published files were touched)" if reason.tampered else "")


class Verify(OurCommand):
    name = "verify"
    doc_purpose = "hash every artifact again"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument(
            "--deep", action="store_true", help="also schemas, fingerprints, and verdicts decided again"
        )
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        wrong = 0
        for name, found in verify(project, deep=options.deep):
            wrong += len(found)
            print(
                "\n".join(
                    [f"{name:<16} {'ok' if not found else ''}".rstrip(), *(f"    {line}" for line in found)]
                )
            )
        print(f"{wrong} wrong" if wrong else "all as published")
        return EXIT_BROKE if wrong else EXIT_GO


class Gates(OurCommand):
    name = "gates"
    doc_purpose = "one line a gate: value against bound; writes nothing"

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        verdicts = evaluate_all(project.root, policy_of(project), write=False)
        print_gates(verdicts)
        word = decision_word(verdicts)
        print(word)
        return EXIT[word]


class Decide(OurCommand):
    name = "decide"
    doc_purpose = "decide every gate again and write decision.json"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--strict", action="store_true", help="ignore waivers")
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        with held(project):
            code = conclude(project, strict=options.strict)
            project.save_caches()
        return code


class Report(OurCommand):
    name = "report"
    doc_purpose = "render report/index.html, whatever the decision"

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        with held(project):
            if not (project.root / "decision.json").exists():
                decide(project.root, policy_of(project), project.profile.data)
            print(write_report(project, stale_measurements(project)).relative_to(project.repo))
            project.save_caches()
        return EXIT_GO


class Waive(OurCommand):
    name = "waive"
    doc_purpose = "answer for a gate's failed checks on this very artifact, until a day"
    words_doc = "GATE"
    takes = (1, 1)

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--check", help="only this check; default: all that failed")
        parser.add_argument("--reason", required=True, help="why the failure is acceptable")
        parser.add_argument("--owner", default=getpass.getuser(), help="who answers for it; default: you")
        parser.add_argument(
            "--expires", required=True, metavar="YYYY-MM-DD", help="last day on which it holds"
        )
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        verdict = evaluate_gate(words[0], project.root, policy_of(project), write=False)
        failed = [
            {"id": one.id, "slice": one.slice, "value": one.value}
            for one in verdict.failing()
            if one.status == "fail" and options.check in (None, one.id)
        ]
        added = waive(
            project.repo / "gates" / "waivers.yaml",
            failed,
            gate=verdict.gate,
            subject=verdict.subject_digest,
            reason=options.reason,
            owner=options.owner,
            expires=options.expires,
        )
        for one in added:
            print(
                f"waived until {one.expires}: {one.gate}.{one.check} {one.slice} at {one.value}, "
                f"for subject {one.subject[:12]}"
            )
        return EXIT_GO


class History(OurCommand):
    name = "history"
    doc_purpose = "verdict changes over time"

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        for row in read_history(project.root):
            print(
                f"{row['time']}  {row['gate']}  {row['from'] or '-'} -> {row['to']}  {row['reason']}".rstrip()
            )
        return EXIT_GO


class Sample(OurCommand):
    name = "sample"
    doc_purpose = "one prompt through the trained model"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--task", required=True, choices=("t2a", "t2i", "a2t", "i2t"))
        parser.add_argument("--prompt", help="text to make a sound or a picture of")
        parser.add_argument("--audio", help="sound to describe")
        parser.add_argument("--image", help="picture to describe")
        parser.add_argument("--out", help="file to write: .wav or .png")
        parser.add_argument("--checkpoint", default="final", help="step_<k>, or final")
        parser.add_argument("--temperature", type=float, help="default: the profile's")
        parser.add_argument("--top-k", type=int, help="default: the profile's")
        parser.add_argument("--top-p", type=float, help="default: the profile's")
        parser.add_argument("--guidance", type=float, help="default: the profile's")
        parser.add_argument("--seed", type=int, default=0)
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        return importlib.import_module("mmpt.evaluate.commands").sample(
            project.root, project.profile, options
        )


class Evaluate(OurCommand):
    name = "evaluate"
    doc_purpose = "golden generation and ablation of any checkpoint"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--checkpoint", default="final", help="step_<k>, final, or a folder")
        parser.add_argument("--tasks", default="t2a,t2i", help="comma-separated; default %(default)s")
        parser.add_argument(
            "--out", help="folder for the outputs; default artifacts/<profile>/evaluate/<checkpoint>"
        )
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        return importlib.import_module("mmpt.evaluate.commands").evaluate(
            project.root, project.profile, options
        )


class Refused(OurCommand):
    """One of doit's commands that has no place here."""

    takes = (0, 99)
    instead = ""

    def parse_execute(self, in_args: list[str]) -> int:
        print(
            f"doit: {self.name} does nothing here: receipts are what counts, and no command marks a stage "
            "or a gate as done; "
            f"{self.instead}",
            file=sys.stderr,
        )
        return 2


class Clean(Refused):
    name, doc_purpose, instead = "clean", "not used here", "delete artifacts/<profile> to start over"


class DumpDB(Refused):
    name, doc_purpose, instead = "dumpdb", "not used here", "see artifacts/<profile>/<stage>/receipt.json"


class Forget(Refused):
    name, doc_purpose, instead = "forget", "not used here", "`doit -a STAGE` builds a fresh stage again"


class Ignore(Refused):
    name, doc_purpose, instead = "ignore", "not used here", "see `doit waive`"


class ResetDep(Refused):
    name, doc_purpose, instead = "reset-dep", "not used here", "see `doit waive`"
