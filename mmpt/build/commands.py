"""The commands of `doit` that build and look at what was built. Each reads its words itself (commandline.py);
those about gates are in commands_gates.py, help and completion in commands_shell.py.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import shutil
import sys
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from doit.cmd_run import Run as DoitRun

from mmpt.build.after import require_go, wanting
from mmpt.build.artifact_index import report_files
from mmpt.build.commandline import OurCommand, Parser, computing, held, user_path, whole_number
from mmpt.build.commands_track import followed
from mmpt.build.decision_summary import DecisionSummary, conclude, stale_measurements
from mmpt.build.declaration import Stage
from mmpt.build.display import NAME_WIDTH
from mmpt.build.early import check_early, check_sources
from mmpt.build.fingerprint import portable
from mmpt.build.needs import needs
from mmpt.build.plugins import require_codecs
from mmpt.build.policy import policy_of
from mmpt.build.project import Project
from mmpt.build.receipts import RECEIPT, sweep
from mmpt.build.report_writer import write_report
from mmpt.build.run_plan import StagePlan, run_plan, what_is_left
from mmpt.build.runner import GRACE, forward_signals, give_up_importing
from mmpt.build.signature import wrong as signature_faults
from mmpt.build.stage_times import seconds_json, stage_times, time_lines
from mmpt.build.staleness import plan
from mmpt.build.tasks import RUN, Reporter
from mmpt.build.verification import verify
from mmpt.gating import decide
from mmpt.profile.keys import left_behind
from mmpt.profile.missing import missing, require_present, way_out
from mmpt.store.canonical import read_json
from mmpt.store.errors import EXIT_BROKE, EXIT_CANNOT_DECIDE, EXIT_GO, EXIT_NO_GO, UserError
from mmpt.store.lock import holder

AGAIN_AFTER = 0.2  # seconds after which what holds them up is ended again


class StageCommand(OurCommand):
    """A command whose words are stages."""

    def stages(self, project: Project, words: list[str]) -> list[str]:
        """The stages that the words name.

        Raises:
            UserError: a word that is no stage; names the nearest stage or command.
        """
        for word in words:
            if word in project.names:
                continue
            if word == "init":
                raise UserError("no command of doit", found=word, fix="`mmpt init FOLDER --from DATA` starts a project")
            if word in self.commands:
                raise UserError("a command where a stage belongs", found=word, fix=f"try `doit {word}`")
            close = difflib.get_close_matches(word, [*project.names, *self.commands], n=1, cutoff=0.5)
            if close and close[0] in self.commands:
                raise UserError("no such command or stage", found=word, fix=f"did you mean {close[0]!r}?")
            project.stage(word)
        return words

    def foresee(self, project: Project, names: list[str], *, always: bool = False, single: bool = False) -> int:
        """Tell what a run of these stages would do."""
        policy_of(project)  # what a run would refuse before its first stage
        require_codecs(project.profile.data)
        check_early(project, names, single=single)
        found = run_plan(project, names, always=always, single=single)
        check_sources(project, [one.stage.name for one in found if one.state in ("runs", "may run")])
        first = [f"after: {why}" for why in wanting(project)]
        lost = [str(one) for one in missing(project.profile, _external(project, names, single))]
        wanted = {one.stage.name for one in found if one.state != "fresh" and not one.there}
        needed, times = needs(project, wanted), stage_times(project, found)
        first += [f"room: {one}" for one in needed if one.lacking]
        softenings = policy_of(project).softenings
        self.result = {
            "missing": [*first, *lost],
            "needs": [one.to_json() for one in needed],
            "softenings": [one.to_json() for one in softenings],
            "stages": [one.to_json() | seconds_json(times.get(one.stage.name)) for one in found],
        }
        self.say(*(f"{'missing':<{NAME_WIDTH}} {one}" for one in first))
        if lost:
            self.say(*(f"{'missing':<{NAME_WIDTH}} {one}" for one in lost), f"    {way_out(project.profile)}")
        for one in found:
            why = one.lines()
            head, below = (f": {why[0]}", why[1:]) if why[:1] == ["never built"] else ("", why)
            takes = f"; {times[one.stage.name]}" if one.stage.name in times else ""
            self.say(f"{one.stage.name:<{NAME_WIDTH}} {one.state}{head}{takes}", *(f"    {line}" for line in below))
        self.say(*(f"{'softened':<{NAME_WIDTH}} {one}" for one in softenings), *_not_inherited(project.profile.path))
        self.say(*(f"{'time':<{NAME_WIDTH}} {line}" for line in time_lines(times)))
        self.say(*(f"{'needs':<{NAME_WIDTH}} {one}" for one in needed if not one.lacking))
        project.save_caches()
        return EXIT_GO


def _not_inherited(path: Path) -> Iterator[str]:
    """What a reader of `extends:` may believe to hold."""
    for file, checks in left_behind(path).items():
        yield (
            f"{'gates':<{NAME_WIDTH}} of {file} are not inherited: {', '.join(checks)}; state them in {path.name}, "
            "with the reason, where they should hold"
        )


def _external(project: Project, names: Sequence[str], single: bool) -> set[str]:
    """Profile keys of the files that the named stages (none: all) read, with those of what they need."""
    wanted = list(names) if names else list(project.names)
    for name in wanted if not single else ():
        wanted += [one for one in project.names[name].inputs if one not in wanted]
    return {key for name in wanted for key in project.names[name].external}


def _download(project: Project, names: Sequence[str], single: bool) -> None:
    """Bring the data sets that sources name by their hub id and that are not there yet, for stages that read them."""
    sources = project.profile.data.get("corpus", {}).get("sources", ())
    if "corpus.sources" in _external(project, names, single) and any("hub" in one for one in sources):
        from mmpt.corpus.hub import fetch_sources  # only where there is one

        for line in fetch_sources(sources):
            print(line, file=sys.stderr)


class Run(StageCommand, DoitRun):
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
        parser.add_argument("-a", "--always", action="store_true", help="build the named stages even if they are fresh")
        parser.add_argument(
            "-j", "--jobs", type=whole_number, metavar="N", help="stages that run at once; default runtime.jobs, else 1"
        )
        parser.add_argument("-n", "--dry-run", action="store_true", help="say what would run, and run nothing")
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        if (options.single or options.always) and not words:
            raise UserError(
                "names no stage",
                where="doit run",
                found="-s or -a alone",
                fix="say which, e.g. `doit -a train`",
            )
        names = self.stages(project, words)
        policy_of(project)  # a bad policy is better refused before the first stage than after it
        if options.dry_run:
            return self.foresee(project, names, always=options.always, single=options.single)
        require_codecs(project.profile.data)
        _download(project, names, options.single)
        require_present(project.profile, _external(project, names, options.single))
        require_go(project)
        check_early(project, names, single=options.single)
        forward_signals()
        RUN.display.stream = sys.stdout
        with held(project), followed(project):
            _clear_staging(project)
            self._build(project, options, names)
            # What a kill between publishing and clearing up left, or a profile that was changed back.
            for line in sweep(project, RUN.fresh):
                RUN.display.loud(line)
            _summary(project.names)
            conclusion = conclude(project, fresh={*RUN.fresh, *RUN.built})
            if RUN.built:
                plan(project)  # hashes what was built, so that the next run need only look at stats
            project.save_caches()
        self.result = {"stages": _ran(project.names), **conclusion.to_json()}
        self.say(*_decision_lines(conclusion))
        return RUN.exit_code or (_stages_code(project, names, conclusion) if words else conclusion.exit_code)

    def _build(self, project: Project, options: argparse.Namespace, names: list[str]) -> None:
        RUN.always = tuple(names) if options.always else ()
        params, _ = self.cmdparser.parse([])
        params.update({"reporter": Reporter(RUN), "continue": True, "single": options.single, "verbosity": 2})
        if (jobs := options.jobs or project.profile.data["runtime"].get("jobs", 1)) > 1:
            params.update({"num_process": jobs, "par_type": "thread"})
        try:
            DoitRun.execute(self, params, names)
        except BaseException as stop:
            end = time.monotonic() + max(one.ends_within for one in project.stages) + 2 * GRACE
            while not RUN.turn.stop(AGAIN_AFTER) and time.monotonic() < end:
                give_up_importing()  # again: it may only have begun
            if isinstance(stop, KeyboardInterrupt):
                raise KeyboardInterrupt("; ".join([str(stop) or "SIGINT", *_saved(project)])) from None
            raise


def _saved(project: Project) -> Iterator[str]:
    """Where the stages that were interrupted go on from, of those that train."""
    for name in RUN.notes.keys() - {*RUN.built, *RUN.stale, *RUN.failed}:
        _, step = what_is_left(project, project.stage(name))
        if step is not None:
            yield f"{name} is saved at step {step}"


def _stages_code(project: Project, names: Sequence[str], conclusion: DecisionSummary) -> int:
    """Exit code of a run of named stages: 0 if they are built, and their own gates and all that they need pass.

    The decision of the whole run is not asked: `doit split && ..` goes on where the split and its gates are fine.
    """
    wanted = list(names)
    for name in wanted:
        wanted += [one for one in project.names[name].inputs if one not in wanted]
    needed = {gate for name in wanted for gate in project.names[name].needs}
    needed |= {gate for name in names for gate in project.names[name].measures}
    verdicts = {one.verdict for one in conclusion.verdicts if one.gate in needed and not one.good}
    if "NO_GO" in verdicts:
        return EXIT_NO_GO
    done = {*RUN.fresh, *RUN.built}
    return EXIT_GO if not verdicts and done.issuperset(names) else EXIT_CANNOT_DECIDE


def _clear_staging(project: Project) -> None:
    """Remove attempts of killed runs that cannot be adopted; folders to resume from stay."""
    for attempt in project.staging.glob("out-*"):
        if not (attempt / RECEIPT).exists():
            shutil.rmtree(attempt, ignore_errors=True)  # a dying process may still write there


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


def _decision_lines(conclusion: DecisionSummary) -> list[str]:
    """What the run comes to; a GO of the gates names the stages that failed beside it, as `release` may."""
    *lines, last = conclusion.lines()
    if conclusion.exit_code == EXIT_GO and RUN.failed:
        last += f", but failed: {', '.join(RUN.failed)}"
    # What stopped a run on bad input should stand out.
    return [*lines, last][-2 if "refused" in RUN.failed.values() else 0 :]


def _ran(stages: Iterable[str]) -> list[dict[str, Any]]:
    """What became of each stage that the run came to."""
    states = dict.fromkeys(RUN.fresh, "fresh") | dict.fromkeys(RUN.built, "built")
    states |= dict.fromkeys(RUN.stale, "built from edited code")
    states |= dict.fromkeys(RUN.failed, "failed") | dict.fromkeys(RUN.waiting, "not run")
    return [
        {
            "stage": name,
            "state": states[name],
            **RUN.notes.get(name, {}),
            **({"status": RUN.failed[name]} if name in RUN.failed else {}),
            **({"waits_for": RUN.waiting[name].split()} if name in RUN.waiting else {}),
        }
        for name in stages
        if name in states
    ]


def _first(names: list[str], most: int = 5) -> str:
    return " ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class List(OurCommand):
    name = "list"
    doc_purpose = "every stage, what it does, and the gates it measures"

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        for stage in project.stages:
            gates = f"  [{' '.join(stage.measures)}]" if stage.measures else ""
            self.say(f"{stage.name:<{NAME_WIDTH}} {stage.doc}{gates}")
        self.result = {"stages": [_declared(stage) for stage in project.stages]}
        return EXIT_GO


def _declared(stage: Stage) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "doc": stage.doc,
        "inputs": list(stage.inputs),
        "profile_keys": list(stage.slice),
        "needs": list(stage.needs),
        "measures": list(stage.measures),
        "outputs": [output.glob for output in stage.outputs],
    }


class Plan(StageCommand):
    name = "plan"
    doc_purpose = "what a run would do, and why; runs nothing"
    words_doc = "[STAGE ...]"
    takes = (0, 99)

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        return self.foresee(project, self.stages(project, words))


class Why(StageCommand):
    name = "why"
    doc_purpose = "why a stage would run, digest by digest, up to the first cause"
    words_doc = "STAGE"
    takes = (1, 1)

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        name = self.stages(project, words)[0]
        seen = {one.stage.name: one for one in run_plan(project, [name])}
        told: list[str] = []
        lines = list(_causes(seen, name, "", told))
        self.result = {
            "stage": name,
            "state": seen[name].state,
            "stages": [seen[one].to_json() for one in told],
        }
        self.say(*lines)
        if not told:
            self.say(f"{name} is fresh: its receipt matches the profile, code, inputs and outputs")
        project.save_caches()
        return EXIT_GO


def _causes(seen: dict[str, StagePlan], name: str, indent: str, told: list[str]) -> Iterator[str]:
    """A stage's lines: its own reasons and, below each input that is not fresh, that input's.

    Args:
        told: the stages that were explained above; each is explained once, and added here.
    """
    one = seen[name]
    if one.state == "fresh":
        return
    told.append(name)
    yield f"{indent}because of {name}: {one.state}" if indent else f"{name}: {one.state}"
    for reason in one.reasons:
        yield f"{indent}    {reason}" + ("  (published files were touched)" if reason.tampered else "")
    yield from (f"{indent}    {line}" for line in [*one.remains(), *one.holds()])
    for source in dict.fromkeys([*one.waits_for, *one.behind]):
        if source in told:
            yield f"{indent}    because of {source} (explained above)"
        else:
            yield from _causes(seen, source, indent + "    ", told)


class Verify(OurCommand):
    name = "verify"
    doc_purpose = "hash every artifact again"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument(
            "--deep", action="store_true", help="also schemas, fingerprints, and verdicts decided again"
        )
        parser.add_argument(
            "--signature", type=user_path, metavar="PEM", help="also release.sig, by the signer's public key"
        )
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        if by := holder(project.state / "lock"):
            raise UserError(
                "a run is building there, and what it publishes is not whole before its end",
                where=project.root.name,
                found=by,
                fix="run `doit verify` when it has ended",
            )
        checked = []
        keys = [Path(options.signature)] if options.signature else []
        signed = (("signature", signature_faults(project.root, key)) for key in keys)
        for name, found in itertools.chain(verify(project, deep=options.deep), signed):
            checked.append({"name": name, "wrong": found})
            # Hashing takes its time: a line as soon as it is known, on stderr with --json.
            print(f"{name:<{NAME_WIDTH}} {'' if found else 'ok'}".rstrip(), *found, sep="\n    ", flush=True)
        wrong = sum(len(one["wrong"]) for one in checked)
        self.result = {"deep": options.deep, "wrong": wrong, "checked": checked}
        if not checked:
            raise UserError("nothing is published yet", where=project.root.name, fix="run `doit` first")
        self.say(f"{wrong} wrong" if wrong else "all as published")
        return EXIT_BROKE if wrong else EXIT_GO


class Report(OurCommand):
    name = "report"
    doc_purpose = "render report/index.html, whatever the decision"

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        with held(project):
            if not (project.root / "decision.json").exists():
                decide(project.root, policy_of(project), portable(project.profile.data))
            page = write_report(project, stale_measurements(project)).relative_to(project.repo)
            project.save_caches()
        self.say(str(page))
        self.result = {name: (page.parent / name).as_posix() for name in report_files(project)}
        return EXIT_GO


class Sample(OurCommand):
    name = "sample"
    doc_purpose = "one prompt through the trained model"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--task", required=True, choices=("t2a", "t2i", "a2t", "i2t"))
        parser.add_argument("--prompt", help="text to make a sound or a picture of")
        parser.add_argument("--audio", type=user_path, help="sound to describe")
        parser.add_argument("--image", type=user_path, help="picture to describe")
        parser.add_argument("--out", type=user_path, help="file to write: .wav or .png")
        parser.add_argument(
            "--checkpoint", type=user_path, default="final", help="step_<k>, final, or a checkpoint's folder"
        )
        parser.add_argument("--temperature", type=float, help="default: the profile's")
        parser.add_argument("--top-k", type=int, help="default: the profile's")
        parser.add_argument("--top-p", type=float, help="default: the profile's")
        parser.add_argument("--guidance", type=float, help="default: the profile's")
        parser.add_argument(
            "--learned-end", action="store_true", help="t2a: the model ends the sound; default: a whole clip"
        )
        parser.add_argument("--seed", type=int, default=0)
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        run = computing(project, "mmpt.evaluate.commands").sample
        code, printed = self.told(lambda: run(project.root, project.profile, options))
        self.result = {"task": options.task, "output": printed.strip()}
        return code


class Evaluate(OurCommand):
    name = "evaluate"
    doc_purpose = "golden generation and ablation of any checkpoint"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument(
            "--checkpoint", type=user_path, default="final", help="step_<k>, final, or a checkpoint's folder"
        )
        parser.add_argument("--tasks", default="t2a,t2i", help="comma-separated; default %(default)s")
        parser.add_argument(
            "--out", type=user_path, help="folder for the outputs; default artifacts/<profile>/evaluate/<checkpoint>"
        )
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        run = computing(project, "mmpt.evaluate.commands").evaluate
        code, printed = self.told(lambda: run(project.root, project.profile, options))
        *table, out = printed.rstrip().splitlines()
        self.result = {"out": out, "table": table, "ablation": read_json(Path(out) / "prompt_ablation.json")}
        return code
