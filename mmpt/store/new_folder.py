"""A folder that a user names for outputs: absent or empty, with room for a staging folder beside it."""

from __future__ import annotations

import os
from pathlib import Path

from mmpt.store.errors import UserError


def new_folder(text: str | Path, option: str, run: Path) -> Path:
    """The folder that an option names, links followed.

    Args:
        text: the path as it was typed.
        option: name of the option, for the message.
        run: the run's folder below artifacts/; its stages own what lies there.

    Raises:
        UserError: a file or a folder with something in it is there; a part of the path is a file, may not be written
            or has too long a name; it is a mount point, which a finished folder cannot replace; it is a folder of the
            build.
    """
    folder, where = Path(os.path.realpath(text)), f"{option} {text}"
    try:
        _refuse_occupied(folder, where)
        os.lstat(staging_folder(folder))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UserError("no folder can be made there", where=where, found=error.strerror) from None
    if os.path.ismount(folder):
        raise UserError(
            "a mount point cannot be replaced", where=where, expected="a new folder", fix=f"name one in it: {text}/out"
        )
    own = Path(os.path.realpath(run))
    if folder.is_relative_to(own) and not folder.is_relative_to(own / "evaluate"):
        raise UserError(
            "the folder belongs to the build",
            where=where,
            expected=f"one outside of {own}",
            fix=f"name a folder elsewhere, or one in {own / 'evaluate'}",
        )
    above = next(one for one in folder.parents if os.path.lexists(one))
    if not above.is_dir():
        raise UserError("no folder can be made there", where=where, found=f"{above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError("no folder can be made there", where=where, found=f"{above} may not be written")
    return folder


def staging_folder(folder: Path) -> Path:
    """Where a folder is written before it is put in its place."""
    return folder.with_name(f".{folder.name}.tmp")


def _refuse_occupied(folder: Path, where: str) -> None:
    """Raise UserError for a file, or a folder with something in it."""
    first = None if not folder.is_dir() else next(folder.iterdir(), None)
    if first or (os.path.lexists(folder) and not folder.is_dir()):
        found = f"a folder with {first.name} in it" if first else "a file"
        raise UserError(
            "there is something already",
            where=where,
            found=found,
            expected="a new or empty folder",
            fix="name another folder; nothing is overwritten",
        )
