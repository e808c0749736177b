"""The commands of `doit` about the command line itself: help, completion, and those of doit's own that are
refused.
"""

from __future__ import annotations

import argparse
import difflib
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
from mmpt.profile.keys import keys
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
    words_doc = "[COMMAND | STAGE | GATE [CHECK] | profile [KEY]]"
    takes = (0, 2)

    def __init__(self, cmds: Any = None, **kwargs: Any):
        super().__init__(cmds=cmds, **kwargs)
        self._plugins = cmds

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        lines = self._page(project, words)
        self.say(*lines)
        self.result = {"text": "\n".join(lines)}
        return EXIT_GO

    def _page(self, project: Project, words: list[str]) -> list[str]:
        commands, policy = self._plugins.to_dict(), policy_of(project)
        word, *more = words or [""]
        if not words:
            return overview(commands)
        if word == "profile":
            return key_lines(more[0] if more else None, project.stages, project.profile)
        gate, _, check = word.partition(".")
        if gate.upper() in policy.gates:
            return gate_lines(policy, gate.upper(), check or (more[0] if more else None))
        if more:
            expected = "one word; profile and a KEY; or a GATE and a CHECK"
            raise UserError("too many words", where="doit help", found=" ".join(words), expected=expected)
        if word in commands:
            return _parser_of(commands[word]).format_help().rstrip().splitlines()
        if word in project.names:
            return _stage_lines(project.names[word])
        if "." in word or any(word in name.split(".") for name in keys()):
            return key_lines(word, project.stages, project.profile)
        ours = [name for name, one in commands.items() if not issubclass(one, Refused)]
        close = difflib.get_close_matches(word, [*ours, *project.names], n=1, cutoff=0.5)
        close += difflib.get_close_matches(word.upper(), policy.gates, n=1, cutoff=0.5)
        lists = "`doit help` lists commands, `doit list` stages and gates, `doit help profile` keys"
        raise UserError(
            "no such command, stage, gate or key of a profile",
            found=word,
            fix=f"did you mean {close[0]!r}?" if close else lists,
        )


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
        f"`doit why {stage.name}`: why it would run; its log: artifacts/<profile>/logs/{stage.name}.log",
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
