"""The `mmpt` command: this project's doit commands, from any folder of a project, and `mmpt init`.

    mmpt init my-run --from ../captioned      a folder with gates/, dodo.py and a profile
    cd my-run && mmpt                         as `doit` there
    mmpt sample --task t2i --prompt "a red circle" --out x.png

A project is a folder with dodo.py and gates/. Artifacts lie in it, whatever folder inside it the command runs in.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from doit.doit_cmd import DoitMain

import mmpt
from mmpt.build.call import CALL
from mmpt.build.init import init
from mmpt.store.errors import UserError

BUILD = "mmpt.build"
COMMANDS = {
    **{
        name: f"{BUILD}.commands:{name.capitalize()}"
        for name in ("run", "list", "plan", "why", "verify", "report", "sample", "evaluate")
    },
    **{name: f"{BUILD}.commands_out:{name.capitalize()}" for name in ("export", "fit")},
    "push": f"{BUILD}.commands_push:Push",
    "sign": f"{BUILD}.commands_sign:Sign",
    "records": f"{BUILD}.commands_records:Records",
    "track": f"{BUILD}.commands_track:Track",
    "profile": f"{BUILD}.commands_profile:ShowProfile",
    "store": f"{BUILD}.commands_store:Store",
    "advise": f"{BUILD}.commands_advise:Advise",
    "bench": f"{BUILD}.commands_bench:Bench",
    **{
        name: f"{BUILD}.commands_gates:{name.capitalize()}"
        for name in ("gates", "decide", "waive", "accept", "diff", "history")
    },
    **{
        name: f"{BUILD}.commands_shell:{name.capitalize()}"
        for name in ("help", "completion", "clean", "forget", "ignore", "info", "strace")
    },
    "dumpdb": f"{BUILD}.commands_shell:DumpDB",
    "reset-dep": f"{BUILD}.commands_shell:ResetDep",
    "tabcompletion": f"{BUILD}.commands_shell:TabCompletion",
}
"""Command -> class, as [tool.doit.plugins.command] of pyproject.toml names them; a test holds both equal."""
SETTINGS = {
    "GLOBAL": {"backend": "memory", "loader": "mmpt"},
    "BACKEND": {"memory": f"{BUILD}.tasks:MemoryDB"},
    "LOADER": {"mmpt": f"{BUILD}.tasks:Loader"},
    "COMMAND": COMMANDS,
}
"""doit's configuration: what pyproject.toml says in the clone, and doit.cfg in a project that `mmpt init` started."""
PATHS = ("--out", "--to", "--audio", "--image", "--write", "--peers", "--key", "--signature")
"""Options that take a path of the present folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit codes are those of `doit` in the clone."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words in (["--version"], ["-V"]):
        print(f"mmpt {mmpt.__version__}")
        return 0
    try:
        if words[:1] == ["init"]:
            return init(words[1:], SETTINGS)
        folder = project_folder(Path.cwd())
    except UserError as error:
        print(f"mmpt: {error}", file=sys.stderr)
        return error.exit_code
    CALL.program = "mmpt"
    typed, words = words, [absolute(word, before) for before, word in zip(["", *words], words, strict=False)]
    CALL.shown = dict(zip(words, typed, strict=True))
    os.chdir(folder)
    sys.argv = ["mmpt", *words]
    return DoitMain(extra_config=SETTINGS, config_filenames=()).run(words)


def project_folder(start: Path) -> Path:
    """The nearest folder from `start` upwards that is a project.

    Raises:
        UserError: there is none.
    """
    for folder in (start, *start.parents):
        if (folder / "dodo.py").is_file() and (folder / "gates" / "policy.yaml").is_file():
            return folder
    raise UserError(
        "no project in this folder or above it",
        found=str(start),
        expected="a folder with dodo.py and gates/, such as a clone of mmpt",
        fix="`mmpt init` starts one here",
    )


def absolute(word: str, before: str) -> str:
    """A word with its path made absolute: commands run in the project's folder, paths count from the present one."""
    for option in PATHS:
        if word.startswith(f"{option}="):
            return f"{option}={_here(word.removeprefix(f'{option}='))}"
    if before in PATHS:
        return _here(word)
    if word.startswith("profile=") and Path(word.removeprefix("profile=")).is_file():
        return f"profile={_here(word.removeprefix('profile='))}"
    if before == "--checkpoint" and Path(word).exists():
        return _here(word)
    return word


def _here(path: str) -> str:
    """The path from this folder; one in a home folder is left to the command."""
    return path if path.startswith("~") else str(Path(path).absolute())
