"""Completion scripts for bash, zsh and fish, made from the commands' own parsers.

A script holds all words but two kinds, which it looks up when asked: profile files, and the runs under
artifacts/. It starts no Python: completing a word must not take a third of a second.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SHELLS = ("bash", "zsh", "fish")
RUNS, FILES = "@runs", "@files"  # lists that the shell looks up
# What the words of a command are; the lists are made in ``script``.
WORDS = {
    "run": "stages",
    "plan": "stages",
    "why": "stages",
    "waive": "gates",
    "accept": "baselines",
    "help": "help",
    "completion": "shells",
    "diff": "runs",
}
FILE_OPTIONS = {"--audio", "--image", "--out"}


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Args:
        names: as typed, e.g. ("-a", "--always").
        values: what may follow it; None: it takes none; empty: anything.
    """

    names: tuple[str, ...]
    help: str
    values: tuple[str, ...] | None


@dataclass(frozen=True)
class Known:
    """What there is to complete.

    Args:
        commands: command -> its one line; options, words: of each command.
        profiles: names of the packaged profiles.
    """

    commands: Mapping[str, str]
    options: Mapping[str, Sequence[Option]]
    words: Mapping[str, Sequence[str]]
    profiles: Sequence[str]


def script(
    shell: str,
    parsers: Mapping[str, argparse.ArgumentParser],
    *,
    stages: Sequence[str],
    gates: Sequence[str],
    baselines: Sequence[str],
    profiles: Sequence[str],
) -> str:
    """The completion script for ``shell``. Where no command was typed, options are those of ``run``.

    Args:
        parsers: command -> its parser.
        baselines: the gates that have one.
        profiles: names of the packaged profiles.
    """
    lists = {
        "stages": stages,
        "gates": gates,
        "baselines": baselines,
        "shells": SHELLS,
        "help": [*parsers, *stages],
        "runs": [RUNS],
    }
    known = Known(
        {name: parser.description or "" for name, parser in parsers.items()},
        {name: [*_options(parser, gates)] for name, parser in parsers.items()},
        {name: list(lists.get(WORDS.get(name, ""), ())) for name in parsers},
        profiles,
    )
    text = Path(__file__).with_name(f"completion.{shell}").read_text(encoding="utf-8")
    parts = {"COMMANDS": " ".join(known.commands), "PROFILES": " ".join(profiles)}
    parts |= {"RULES": _fish_rules(known)} if shell == "fish" else {"CASES": _cases(known)}
    for name, value in parts.items():
        text = text.replace(f"@{name}@", value)
    return text.rstrip("\n")


def _options(parser: argparse.ArgumentParser, gates: Sequence[str]) -> list[Option]:
    found = []
    for action in parser._actions:
        if not action.option_strings:
            continue
        values = None if action.nargs == 0 else tuple(map(str, action.choices or ()))
        if action.dest == "gate":
            values = tuple(gates)
        elif values == () and FILE_OPTIONS & set(action.option_strings):
            values = (FILES,)
        help_text = (action.help or "").replace("%(default)s", str(action.default))
        found.append(Option(tuple(action.option_strings), help_text, values))
    return found


def _cases(known: Known) -> str:
    """Three functions of bash and zsh alike: a command's words and options, and an option's values."""
    words = [f"        {name}) echo {shlex.quote(' '.join(list_))} ;;" for name, list_ in known.words.items() if list_]
    options, values = [], []
    for name, all_ in known.options.items():
        names = " ".join(one for option in all_ for one in option.names)
        options.append(f"        {name}) echo {shlex.quote(names)} ;;")
        for option in all_:
            if option.values is not None:
                patterns = " | ".join(f"{name}:{one}" for one in option.names)
                values.append(f"        {patterns}) echo {shlex.quote(' '.join(option.values))} ;;")
    bodies = {
        "words": ("$1", words, ":"),
        "options": ("$1", options, ":"),
        "values": ("$1:$2", values, "return 1"),
    }
    return "\n".join(
        "\n".join([f"_doit_{name}() {{", f'    case "{key}" in', *lines, f"        *) {other} ;;", "    esac", "}"])
        for name, (key, lines, other) in bodies.items()
    )


def _fish_rules(known: Known) -> str:
    lines = [
        f"complete -c doit -n '__doit_in none' -a {name} -d {_fish(text)}" for name, text in known.commands.items()
    ]
    for name, words in known.words.items():
        where = "none run" if name == "run" else name
        given = "(__doit_runs)" if list(words) == [RUNS] else " ".join(words)
        lines += [f"complete -c doit -n '__doit_in {where}' -a '{given}'"] if words else []
        lines += [_fish_option(where, option) for option in known.options[name]]
    return "\n".join(lines)


def _fish_option(where: str, option: Option) -> str:
    names = " ".join(f"-l {one[2:]}" if one.startswith("--") else f"-s {one[1:]}" for one in option.names)
    if option.values is None:
        takes = ""
    elif option.values == (FILES,):
        takes = " -r -F"
    else:
        takes = f" -x -a '{' '.join(option.values)}'"
    return f"complete -c doit -n '__doit_in {where}' {names}{takes} -d {_fish(option.help)}"


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
