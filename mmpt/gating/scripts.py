"""Reading the gate scripts: each file gates/<id>_*.py states, as ``GATE``, what its gate asks of which evidence.

The build decides with what these files say, and they decide by hand: both go through here.
"""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpt.store.errors import UserError
from mmpt.store.schema import validate

PATTERN = "[a-z][0-9]_*.py"


@dataclass(frozen=True)
class Script:
    """One gate script.

    Args:
        body: its ``GATE``, as gate.schema.json describes it.
        path: the file.
    """

    body: Mapping[str, Any]
    path: Path

    @property
    def checks(self) -> dict[str, Mapping[str, Any]]:
        """Check id -> the check as the script states it."""
        return {check["id"]: check for check in self.body["checks"]}


def load_scripts(folder: Path) -> dict[str, Script]:
    """Gate id -> script, in the order of their file names.

    Raises:
        UserError: a script that does not run, states no gate or another than its name says, states a check twice,
            or two scripts of one gate.
    """
    scripts: dict[str, Script] = {}
    for path in sorted(folder.glob(PATTERN)):
        script = load_script(path)
        gate_id = script.body["id"]
        if gate_id in scripts:
            found = f"{scripts[gate_id].path.name}, {path.name}"
            raise UserError("two scripts state one gate", where=folder, found=found)
        scripts[gate_id] = script
    return scripts


def load_script(path: Path) -> Script:
    """One gate script. Raises as ``load_scripts`` does."""
    try:
        # From its source: Python's own cache of compiled modules misses an edit within the same second.
        body = runpy.run_path(str(path)).get("GATE")
    except Exception as error:  # whatever the file does wrong is reported in one line
        raise UserError("the gate script does not run", where=path, found=f"{type(error).__name__}: {error}") from None
    validate(body, "gate", where=path)
    assert isinstance(body, dict)  # by the schema
    if body["id"] != path.stem.split("_")[0].upper():
        raise UserError("a gate script states another gate than its name says", where=path, found=body["id"])
    ids = [check["id"] for check in body["checks"]]
    twice = sorted({one for one in ids if ids.count(one) > 1})
    if twice:
        raise UserError("a check is stated twice", where=path, found=", ".join(twice))
    return Script(body, path)
