"""The commands of `doit` about the command line itself: help, completion, and those of doit's own that are
refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, NoReturn

import mmpt
from mmpt.build.commandline import OurCommand, Parser
from mmpt.build.completion import SHELLS, script
from mmpt.build.declaration import Stage
from mmpt.build.help_pages import gate_lines, key_lines
from mmpt.build.policy import policy_of
from mmpt.build.project import Project
from mmpt.gating.baselines import baseline_checks
from mmpt.gating.columns import columns, width, wrapped
from mmpt.profile.load import PACKAGED
from mmpt.store.errors import EXIT_GO, UserError
from mmpt.store.schema import nearest

GROUPS = {
    "build": ("run", "plan", "why", "list", "verify"),
    "decide": ("gates", "decide", "report", "waive", "accept", "history", "diff"),
}
EXIT_CODES = (
    ("0", "GO, or done"),
    ("10", "NO-GO"),
    ("20", "CANNOT-DECIDE"),
    ("2", "something you can mend: a wrong word, a bad file, a full disk"),
    ("1", "anything that broke"),
)


def print_overview(commands: Mapping[str, Any]) -> None:
    """What `doit help` shows."""
    print("\n".join(overview(commands)))


def overview(commands: Mapping[str, Any]) -> list[str]:
    """Every command with its line, what every command takes, and the exit codes."""
    known = {name: one for name, one in commands.items() if not issubclass(one, Refused)}
    grouped = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, "more": tuple(name for name in known if name not in grouped)}
    lines = [f"mmpt {mmpt.__version__}: a build whose result is a decision", ""]
    lines += ["doit [STAGE ...] [profile=NAME or PATH] [options]    is `doit run`"]
    size = max(len(name) for name in known) + 4
    for title, names in groups.items():
        lines += ["", title]
        for name in names:
            lines += wrapped(known[name].doc_purpose, width(), " " * size, first=f"  {name}".ljust(size))
    lines += ["", "Every command takes profile= (default smoke), --json, and --help for its own.", ""]
    return [*lines, "exit code", *columns(EXIT_CODES, indent="  ")]


def _parser_of(command: type[OurCommand]) -> Parser:
    """Of a command that is only asked about: its parser needs nothing of what doit gives to an instance."""
    return command.__new__(command).parser()


class Help(OurCommand):
    name = "help"
    doc_purpose = "this page; a command's options; a stage; a gate and its checks; the keys of a profile"
    words_doc = "[COMMAND | STAGE | GATE | profile [KEY]]"
    takes = (0, 2)

    def __init__(self, cmds: Any = None, **kwargs: Any):
        super().__init__(cmds=cmds, **kwargs)
        self._plugins = cmds

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        commands = self._plugins.to_dict()
        gates = policy_of(project).gates
        if not words:
            lines = overview(commands)
        elif words[0] == "profile":
            lines = key_lines(words[1] if len(words) > 1 else None, project.stages)
        elif len(words) > 1:
            raise UserError("too many words", where="doit help", found=" ".join(words), expected="one, or profile KEY")
        elif words[0].upper() in gates:
            lines = gate_lines(policy_of(project), words[0].upper())
        elif words[0] in commands:
            lines = _parser_of(commands[words[0]]).format_help().rstrip().splitlines()
        elif words[0] in project.names:
            lines = _stage_lines(project.names[words[0]])
        else:
            ours = [name for name, one in commands.items() if not issubclass(one, Refused)]
            fix = nearest(words[0], [*ours, *project.names, *gates])
            raise UserError("no such command, stage or gate", found=words[0], fix=fix)
        self.say(*lines)
        self.result = {"text": "\n".join(lines)}
        return EXIT_GO


def _stage_lines(stage: Stage) -> list[str]:
    rows = {
        "reads": stage.inputs,
        "keys": stage.slice,
        "files": stage.external,
        "needs": stage.needs,
        "measures": stage.measures,
        "writes": [output.glob for output in stage.outputs],
    }
    lines = [f"stage {stage.name}: {stage.doc}"]
    for label, values in rows.items():
        if values:
            lines += wrapped(", ".join(values), width(), " " * 12, first=f"  {label}".ljust(12))
    return [
        *lines,
        "",
        f"doit why {stage.name}: why it would run; its log: artifacts/<profile>/logs/{stage.name}.log",
    ]


class Completion(OurCommand):
    name = "completion"
    doc_purpose = "a script that completes commands, options, stages, gates and profiles"
    words_doc = "|".join(SHELLS)
    takes = (1, 1)

    def parser(self) -> Parser:
        parser = super().parser()
        parser.epilog = 'bash, zsh: eval "$(doit completion bash)"; fish: doit completion fish | source'
        return parser

    def __init__(self, cmds: Any = None, **kwargs: Any):
        super().__init__(cmds=cmds, **kwargs)
        self._plugins = cmds

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        shell = words[0]
        if shell not in SHELLS:
            raise UserError("no such shell", found=shell, expected=", ".join(SHELLS), fix=nearest(shell, SHELLS))
        known = {name: one for name, one in self._plugins.to_dict().items() if not issubclass(one, Refused)}
        gates = policy_of(project).gates
        text = script(
            shell,
            {name: _parser_of(one) for name, one in known.items()},
            stages=list(project.names),
            gates=list(gates),
            baselines=[name for name, gate in gates.items() if baseline_checks(gate)],
            profiles=sorted(path.stem for path in PACKAGED.glob("*.yaml")),
        )
        self.say(text)
        self.result = {"shell": shell, "script": text}
        return EXIT_GO


class Refused(OurCommand):
    """One of doit's commands that has no place here."""

    takes = (0, 99)
    instead = ""
    doc_purpose = "not used here"

    def _main(self, words: list[str]) -> NoReturn:
        raise UserError(
            f"{self.name} does nothing here: receipts are what counts, and no command marks a stage or a gate as done",
            fix=self.instead,
        )


class Clean(Refused):
    name, instead = "clean", "delete artifacts/<profile> to start over"


class DumpDB(Refused):
    name, instead = "dumpdb", "see artifacts/<profile>/<stage>/receipt.json"


class Forget(Refused):
    name, instead = "forget", "`doit -a STAGE` builds a fresh stage again"


class Ignore(Refused):
    name, instead = "ignore", "see `doit waive`"


class Info(Refused):
    name, instead = "info", "see `doit help STAGE` and `doit why STAGE`"


class ResetDep(Refused):
    name, instead = "reset-dep", "see `doit waive`"


class Strace(Refused):
    name, instead = "strace", "see `doit help STAGE`: reading an undeclared profile key is an error"


class TabCompletion(Refused):
    name, instead = "tabcompletion", "see `doit completion bash`"
