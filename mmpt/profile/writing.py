"""A profile as a YAML file that reads back as the same profile."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmpt.profile.load import Profile, input_owners, load_profile, path_owners
from mmpt.store.atomic import atomic_write
from mmpt.store.errors import UserError


def write_profile(path: Path, data: Mapping[str, Any], heading: Sequence[str]) -> Profile:
    """Write a whole profile, checked before it has its name; its `name` is the file's.

    Args:
        data: every key, as in `Profile.data`. heading: comment lines.

    Raises:
        UserError: as `new_profile`; or the profile breaks a rule.
    """
    path = new_profile(path)
    name = re.sub(r"[^A-Za-z0-9_-]", "_", path.stem)
    text = profile_text({**data, "name": name}, heading)
    trial = path.with_name(f".{path.stem}.checking.yaml")
    atomic_write(trial, text.encode())
    try:
        load_profile(str(trial))
    finally:
        trial.unlink()
    atomic_write(path, text.encode())
    return load_profile(str(path))


def new_profile(path: Path) -> Path:
    """The path, if a profile may be written there.

    Raises:
        UserError: the file exists already, its folder does not, or its name is none for a profile.
    """
    if path.exists():
        raise UserError("there is a file already", where=path, fix="name a new one")
    if path.suffix not in (".yaml", ".yml"):
        raise UserError("not a profile's file name", where=path, expected="a name that ends in .yaml")
    if not path.absolute().parent.is_dir():
        raise UserError("no such folder", where=path.absolute().parent)
    return path


def profile_text(data: Mapping[str, Any], heading: Sequence[str]) -> str:
    """YAML of a profile's data; paths below the home folder begin with ~."""
    new = copy.deepcopy(dict(data))
    home = f"{Path.home()}/"
    owners = [*path_owners(new), *((owner, key) for _, owner, key in input_owners(new))]
    for owner, key in owners:
        if owner[key].startswith(home):
            owner[key] = f"~/{owner[key].removeprefix(home)}"
    comments = "".join(f"# {line}".rstrip() + "\n" for line in heading)
    ordered = {"name": new.pop("name"), **new}
    return comments + yaml.safe_dump(ordered, sort_keys=False, width=120, allow_unicode=True, default_flow_style=None)
