"""The interface to doit: the stage table as tasks, and the parts of doit that are replaced.

<stage>     runs if its receipt says that it is stale; after its inputs, and after the gates it needs
gate:<ID>   decided at every run, in this process, after its measuring stage; fails where it is not GO
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from doit import doit_cmd
from doit.cmd_base import DodoTaskLoader
from doit.doit_cmd import DoitMain, reset_vars, set_var
from doit.exceptions import TaskFailed, UnmetDependency
from doit.reporter import ZeroReporter
from doit.version import VERSION

import mmpt
from mmpt.build import runner
from mmpt.build.declaration import Stage, check_table, measured_by
from mmpt.build.display import Display
from mmpt.build.imported import table_for
from mmpt.build.ownership import check_owner
from mmpt.build.policy import policy_of, profile_file
from mmpt.build.project import Project
from mmpt.build.run_plan import left_lines, what_is_left
from mmpt.build.staleness import Freshness, reasons, told
from mmpt.build.turn import Turn
from mmpt.build.withdrawal import withdraw_decision
from mmpt.gating import evaluate_gate
from mmpt.launch.process_setup import disk_fault
from mmpt.profile import Profile, load_profile
from mmpt.store.errors import EXIT_BROKE, EXIT_USAGE, UserError

DEFAULT_PROFILE = "smoke"


@dataclass
class Run:
    """What happened so far in one run of a project.

    Args:
        fresh, built: stages, in the order in which they were done.
        stale: stages that were built, but from code that was edited meanwhile.
        failed: stage -> how it failed: "refused", "disk", "blocked" or "broke".
        waiting: stages and gates that could not run, and for which tasks they wait.
        always: stages to build even if they are fresh.
        notes: stage -> why it ran and how it ended, for those that ran: {"reasons", "seconds", "changed",
            "adopted", "taken", "copied", "message"}, as far as it came.
        turn: what its threads hold while they do anything but wait.
    """

    display: Display = field(default_factory=Display)
    fresh: list[str] = field(default_factory=list)
    built: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    always: tuple[str, ...] = ()
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    warm: bool = False
    turn: Turn = field(default_factory=Turn)

    @property
    def exit_code(self) -> int | None:
        """1 if something broke, 2 if the user's input or a full disk stopped a stage; None if the gates have
        the word.
        """
        states = set(self.failed.values())
        return EXIT_BROKE if "broke" in states else EXIT_USAGE if states & {"refused", "disk"} else None


@functools.cache
def open_project(
    name: str,
    stages: tuple[Stage, ...],
    repo: Path,
    packages: tuple[str, ...] = ("mmpt",),
    read: Callable[[str], Profile] = load_profile,
) -> Project:
    """The project of a profile, made once per process.

    Raises:
        UserError: no such profile or a bad one, one whose name is another file's, a table that cannot be built.
    """
    profile = read(name)
    table = table_for(stages, profile)
    check_table(table)
    project = Project(table, profile, repo, packages)
    _refuse_own_source(project)
    check_owner(project)
    return project


def _refuse_own_source(project: Project) -> None:
    """A source whose folder holds the artifacts would change while it is read, with every run again."""
    for name, folder in project.profile.media_roots().items():
        if project.root.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                "the source's folder holds the artifacts of this run",
                where=f"{profile_file(project)}: corpus.sources.{name}.path",
                found=folder,
                expected="a folder that nothing but you writes to",
                fix=f"move its captions and media into a folder of their own, as {folder / 'data'}",
            )


RUN = Run()  # one process is one run; doit hands nothing from a command to its tasks


def stage_tasks(project: Project, run: Run = RUN) -> Iterator[dict[str, Any]]:
    """One task a stage."""
    for stage in project.stages:
        yield {
            "basename": stage.name,
            "doc": stage.doc,
            "io": {"capture": False},
            "actions": [(_in_turn, [run, _build, project, stage])],
            "uptodate": [Freshness(project, stage, forced=stage.name in run.always, turn=run.turn)],
            "task_dep": [*stage.inputs, *(f"gate:{gate}" for gate in stage.needs)],
        }


def gate_tasks(project: Project, run: Run = RUN) -> Iterator[dict[str, Any]]:
    """One task per gate. A gate that is not GO fails its task, and so holds back the stages that need it, no others."""
    for gate, stage in measured_by(project.stages).items():
        yield {
            "basename": "gate",
            "name": gate,
            "doc": f"decide {gate} on the evidence of {stage}",
            "io": {"capture": False},
            "actions": [(_in_turn, [run, _decide, project, gate])],
            "uptodate": [False],
            "task_dep": [stage],
        }


def _in_turn(
    run: Run, task: Callable[[Run, Project, Any], TaskFailed | None], project: Project, subject: Any
) -> TaskFailed | None:
    with run.turn:
        try:
            return task(run, project, subject)
        except (UserError, OSError) as error:  # before or after the stage's own process
            status, said = ("refused", str(error)) if isinstance(error, UserError) else ("disk", disk_fault(error))
            if not said:
                raise
            name = subject.name if isinstance(subject, Stage) else f"gate:{subject}"
            run.failed[name] = status
            run.notes.setdefault(name, {})["message"] = said
            run.display.line(name, f"{status.upper()}: {said}")
            return TaskFailed(said, report=False)


def _build(run: Run, project: Project, stage: Stage) -> TaskFailed | None:
    found = reasons(project, stage)
    for reason in found:
        if reason.tampered:
            run.display.loud(f"{reason}; {stage.name} is built again")
    run.display.line(stage.name, "; ".join([f"runs: {told(found)}", *left_lines(*what_is_left(project, stage))]))
    note = run.notes[stage.name] = {"reasons": [str(reason) for reason in found]}
    if not run.warm and any(one.torch and reasons(project, one) for one in project.stages):
        runner.warm_up(project.runtime("threads"))
    run.warm = True
    withdraw_decision(project)  # what it says is about to be no longer so, also where this run is killed
    run.display.start(stage.name)
    try:
        on_progress, on_silence = (partial(one, stage.name) for one in (run.display.progress, run.display.silence))
        again = stage.name in run.always
        built = runner.build(project, stage, on_progress, run.turn, again=again, on_silence=on_silence)
    except runner.StageError as error:
        run.failed[stage.name] = error.status
        note["message"] = str(error)
        run.display.line(stage.name, f"{error.status.upper()}: {error}")
        return TaskFailed(str(error), report=False)
    finally:
        run.display.end(stage.name)
        project.save_caches()
    note |= {"seconds": round(built.seconds, 3), "changed": built.changed, "adopted": built.adopted}
    how = "taken from an attempt that was complete" if built.adopted else f"built in {built.seconds:.1f} s"
    if built.taken:
        note |= {"taken": built.taken.name, "copied": built.taken.copied}
        how = str(built.taken)
    run.display.line(stage.name, how + ("" if built.changed else ", output unchanged"))
    if built.warning:
        run.display.loud(f"{stage.name}: {built.warning}")
        note["message"] = built.warning
        run.stale.append(stage.name)
    else:
        run.built.append(stage.name)
    return None


def _decide(run: Run, project: Project, gate: str) -> TaskFailed | None:
    # Not written yet: the conclusion decides all gates once more and writes what changed.
    verdict = evaluate_gate(gate, project.root, policy_of(project), write=False)
    if verdict.good:
        return None
    if any(gate in stage.needs and not stage.granted for stage in project.stages):
        run.display.line(f"gate {gate}", f"{verdict.verdict}: {verdict.reason}")
    return TaskFailed(f"{gate} is {verdict.verdict}", report=False)


class Reporter(ZeroReporter):
    """doit's events as entries of a Run; nothing of doit's own text."""

    def __init__(self, run: Run):
        super().__init__(run.display.stream, {})
        self.run = run

    def skip_uptodate(self, task: Any) -> None:
        self.run.fresh.append(task.name)

    def add_failure(self, task: Any, fail: Any) -> None:
        with self.run.turn:
            self._failed(task, fail)

    def _failed(self, task: Any, fail: Any) -> None:
        if isinstance(fail, UnmetDependency):
            self.run.waiting[task.name] = fail.message
        elif not isinstance(fail, TaskFailed):
            self.run.failed[task.name] = "broke"
            self.run.notes.setdefault(task.name, {})["message"] = fail.get_msg()
            self.run.display.line(task.name, fail.get_msg())


class MemoryDB:
    """A doit backend that keeps nothing.

    The receipts hold the truth, so a kill loses none of it, two runs do not clash over it, and no command can
    mark a gate or a stage as done.
    """

    desc = "in memory: receipts are what counts"

    def __init__(self, name: str, codec: Any, *, module_name: str | None = None):
        self.name = name
        self._values: dict[str, dict[str, Any]] = {}

    def dump(self) -> None:
        """Nothing to write."""

    def set(self, task_id: str, dependency: str, value: Any) -> None:
        self._values.setdefault(task_id, {})[dependency] = value

    def get(self, task_id: str, dependency: str) -> Any:
        return self._values.get(task_id, {}).get(dependency)

    def in_(self, task_id: str) -> bool:
        return task_id in self._values

    def remove(self, task_id: str) -> None:
        self._values.pop(task_id, None)

    def remove_all(self) -> None:
        self._values.clear()


class Loader(DodoTaskLoader):
    """Tasks come from dodo.py, as in plain doit.

    It is named in pyproject.toml because doit imports its loader before it looks at the command line: the
    moment to mend that look.
    """


class _Overview:
    """What `doit --help` shows: what `doit help` does."""

    def __init__(self, **_: Any):
        pass

    def print_usage(self, cmds: dict[str, Any]) -> None:
        importlib.import_module("mmpt.build.commands_shell").print_overview(cmds)


def _process_args(self: DoitMain, words: list[str]) -> list[str]:
    """doit 0.37 asks for word[0] and so dies on an empty word, as in `doit sample --prompt ""`."""
    reset_vars()
    for word in words:
        if "=" in word and not word.startswith("-"):
            set_var(*word.split("=", 1))
    return [word for word in words if "=" not in word or word.startswith("-")]


def _print_version() -> None:
    """`doit --version` in the clone."""
    print(f"mmpt {mmpt.__version__} (doit {'.'.join(map(str, VERSION))})")


DoitMain.process_args = _process_args
DoitMain.print_version = staticmethod(_print_version)
doit_cmd.Help = _Overview
