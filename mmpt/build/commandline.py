"""The base of all commands: parse the words, refuse unknown ones, turn errors into exit codes.

doit's own parser drops options after a positional word, makes a variable of any word with "=" in it, and
accepts any variable; so our commands read the command line as it was typed.

With --json stdout holds one JSON document (schemas/commands.schema.json) and nothing else: whatever else is
printed goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import math
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any, NoReturn

from doit.cmd_base import Command

from mmpt.build.call import CALL, hinted
from mmpt.build.ownership import check_owner, claim
from mmpt.build.project import Project
from mmpt.build.tasks import DEFAULT_PROFILE
from mmpt.launch.process_setup import disk_fault, process_environment
from mmpt.store.errors import EXIT_BROKE, EXIT_GO, EXIT_USAGE, MAY_NOT_WRITE, NO_SUCH_PATH, UserError
from mmpt.store.lock import exclusive
from mmpt.store.schema import nearest

VARIABLES = ("profile",)
# Commands of doit's own that are refused (commands_shell.py), and so never suggested.
REFUSED = ("clean", "dumpdb", "forget", "ignore", "info", "reset-dep", "strace", "tabcompletion")


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are UserErrors. Words may stand before, between and after options."""

    def __init__(self, name: str, doc: str, words: str):
        program = f"{CALL.program} {name}"
        usage = " ".join(part for part in (program, words, "[profile=NAME] [options]") if part)
        super().__init__(prog=program, usage=usage, description=doc, allow_abbrev=False)
        self.add_argument(
            "words",
            nargs="*",
            metavar="profile=NAME",
            help=f"packaged profile or path; default {DEFAULT_PROFILE}",
        )
        self.add_argument("--json", action="store_true", help="one JSON document on stdout, the rest on stderr")

    def error(self, message: str) -> NoReturn:
        raise UserError(message, where=self.prog, fix=f"see `{self.prog} --help`")

    def read(self, words: Sequence[str]) -> tuple[argparse.Namespace, list[str], str]:
        """Options, words that are no variables, and the profile.

        Raises:
            UserError: an option or a variable that does not exist; names the nearest.
        """
        options, unknown = self.parse_known_intermixed_args(words)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            raise UserError(
                "unknown option",
                where=self.prog,
                found=unknown[0],
                fix=nearest(unknown[0].split("=")[0], known),
            )
        positional = [word for word in options.words if "=" not in word]
        profile = DEFAULT_PROFILE
        for word in options.words:
            key, given, value = word.partition("=")
            if not given:
                continue
            if key not in VARIABLES or not value:
                raise UserError(
                    "unknown variable" if value else "a variable without a value",
                    where=self.prog,
                    found=word,
                    expected="profile=NAME",
                    fix=nearest(key, VARIABLES),
                )
            profile = value
        return options, positional, profile


def user_path(text: str) -> str:
    """A path as typed, with ~ as the home folder: in --to=~/out no shell puts it in. For add_argument(type=..)."""
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise argparse.ArgumentTypeError(f"{text}: no such home folder; to mean a folder of this name, type ./{text}")
    return path


def whole_number(text: str) -> int:
    """Type of an option that counts: from 1 up."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number from 1 up")
    return number


def above_zero(text: str) -> float:
    """Type of an option that measures: finite, above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number above 0")
    return number


@dataclass(frozen=True)
class Problem:
    """Why a command gave up, as --json tells it.

    Args:
        kind: "usage" where the user can mend it, "disk full", "disk" (it fails), "interrupted", or "broke".
        what, where, found, expected, fix: as in a UserError; empty where there is nothing to say.
    """

    kind: str
    what: str
    where: str = ""
    found: str = ""
    expected: str = ""
    fix: str = ""


class OurCommand(Command):
    """A command of this project.

    Subclasses set ``name`` and ``doc_purpose``, may take words, and define ``main``, which tells its answer
    twice: ``say`` for people, ``self.result`` for --json.
    """

    takes: tuple[int, int] = (0, 0)  # how many words that are no variables
    words_doc = ""  # what they are, as in a usage line
    json = False
    result: dict[str, Any]

    def __init__(self, cmds: Mapping[str, Any] | None = None, **kwargs: Any):
        super().__init__(cmds=cmds, **kwargs)
        self.commands = tuple(name for name in cmds or () if name not in REFUSED)

    def parser(self) -> Parser:
        """The command's options."""
        return Parser(self.name, self.doc_purpose, self.words_doc)

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        """Do it; returns the exit code."""
        raise NotImplementedError

    def say(self, *lines: str) -> None:
        """Print lines of the answer, with commands as this call types them; nothing with --json. Progress is printed
        plainly instead. A reader that has gone, as in `doit gates | head`, changes no exit code.
        """
        if self.json:
            return
        try:
            for line in lines:
                print(hinted(line))
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def told(self, action: Callable[[], int]) -> tuple[int, str]:
        """Run what prints its own answer; its exit code and what it printed, which is shown too."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = action()
        self.say(*printed.getvalue().splitlines())
        return code, printed.getvalue()

    def parse_execute(self, in_args: list[str]) -> int:
        """doit's entry point. ``in_args`` lacks what doit took for variables; the words as typed have it."""
        words = typed_words(self.name)
        self.json = "--json" in words and not {"-h", "--help"} & set(words)
        self.result, self._profile, CALL.profile = {}, "", ""
        with contextlib.redirect_stdout(sys.stderr) if self.json else contextlib.nullcontext():
            code, problem = guarded(lambda: self._main(words))
        if not self.json:
            return code
        return guarded(lambda: self._print_json(code, problem))[0]

    def _print_json(self, code: int, problem: Problem | None) -> int:
        ends = {"result": self.result} if problem is None else {"error": asdict(problem)}
        body = {
            "schema": "command/1",
            "command": self.name,
            "profile": self._profile,
            "exit_code": code,
            **ends,
        }
        print(json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False), flush=True)
        return code

    def _main(self, words: list[str]) -> int:
        try:
            options, positional, self._profile = self.parser().read(words)
        except SystemExit as finished:  # --help
            return finished.code if isinstance(finished.code, int) else EXIT_GO
        least, most = self.takes
        if not least <= len(positional) <= most:
            found = ", ".join(positional) or "nothing"
            raise UserError(
                "wrong number of words",
                where=f"{CALL.program} {self.name}",
                found=found,
                expected=self.words_doc or "none",
            )
        CALL.profile = "" if self._profile == DEFAULT_PROFILE else self._profile
        project = load(self._profile)
        self._profile = project.profile.name
        return self.main(project, options, positional)

    def help(self) -> str:
        """What `doit help COMMAND` prints."""
        return self.parser().format_help()


def typed_words(name: str) -> list[str]:
    """The command line without the command's own name, which is the first word that is no variable."""
    words = sys.argv[1:]
    for at, word in enumerate(words):
        if word.startswith("-") or "=" not in word:
            return words[:at] + words[at + 1 :] if word == name else words
    return words


@contextlib.contextmanager
def held(project: Project) -> Iterator[None]:
    """The lock of a project's artifacts, for the commands that write there; its profile is put on record as theirs."""
    with exclusive(project.state / "lock", shlex.join([CALL.program, *sys.argv[1:]])):
        check_owner(project)  # another file of this name may have come since the project was opened
        claim(project)
        yield


def load(profile: str) -> Project:
    """The project that the dodo.py of this folder declares, for one profile.

    Raises:
        UserError: no dodo.py here, or a bad profile.
    """
    if not os.path.exists("dodo.py"):
        raise UserError(
            "no dodo.py in this folder",
            found=os.getcwd(),
            fix="run doit in the clone, or start a project here with `mmpt init`",
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module("dodo").project(profile)


def computing(project: Project, module: str) -> ModuleType:
    """Import a module that computes, with the environment of the profile's stages: the same codes and outputs.

    Numerical libraries read their thread counts when they are imported, and no command imports them before.
    """
    os.environ.update(process_environment(project.runtime("threads")))
    return importlib.import_module(module)


def guarded(action: Callable[[], int]) -> tuple[int, Problem | None]:
    """Run a command; its exit code, also when it fails: 2 and a line where the user can mend it, else 1."""
    try:
        return action(), None
    except UserError as error:
        print(f"{CALL.program}: {hinted(str(error))}", file=sys.stderr)
        parts = (str(part) for part in (error.what, error.where, error.found, error.expected, hinted(error.fix)))
        return EXIT_USAGE, Problem("usage", *parts)
    except KeyboardInterrupt as stop:
        by = str(stop) or "SIGINT"
        fix = hinted("`doit` goes on from here")
        print(f"{CALL.program}: interrupted by {by}; finished stages are kept, {fix}", file=sys.stderr)
        return EXIT_BROKE, Problem("interrupted", f"interrupted by {by}", fix=fix)
    except BrokenPipeError:  # the reader of the output has gone, and the run stopped there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKE, Problem("broke", "the reader of the output has gone")
    except Exception as error:  # the border: doit would answer 3
        if isinstance(error, OSError) and error.filename is not None and error.errno in (*MAY_NOT_WRITE, *NO_SUCH_PATH):
            print(f"{CALL.program}: {error.filename}: {error.strerror}", file=sys.stderr)
            return EXIT_USAGE, Problem("usage", str(error.strerror), where=str(error.filename))
        if said := disk_fault(error):
            print(f"{CALL.program}: {hinted(said)}", file=sys.stderr)
            return EXIT_USAGE, Problem("disk full" if said.startswith("the disk is full") else "disk", said)
        traceback.print_exc()
        return EXIT_BROKE, Problem("broke", f"{type(error).__name__}: {error}")
