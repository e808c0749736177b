"""The keys of a profile: type and limits from schemas/profile.schema.json, meaning, unit and default from keys.yaml.

`python -m mmpt.profile.keys` writes KEYS.md, the same as a page.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmpt.profile.load import extended
from mmpt.profile.yaml_file import read_yaml
from mmpt.store.atomic import atomic_write
from mmpt.store.errors import UserError
from mmpt.store.schema import SCHEMAS, nearest

MEANINGS = Path(__file__).with_name("keys.yaml")
PAGE = Path(__file__).with_name("KEYS.md")


@dataclass(frozen=True)
class Key:
    """One key of a profile.

    Args:
        name: dotted, e.g. train.lr.lora.
        type: what the schema allows, in words: "integer from 1 up", "one of cpu, cuda".
        means: one line.
        unit: of a number; "" without one.
        default: value without the key; "" if it has none.
    """

    name: str
    type: str
    means: str
    unit: str = ""
    default: str = ""


@functools.lru_cache
def keys() -> dict[str, Key]:
    """Every key by its dotted name, in the order of keys.yaml."""
    types = {"extends": "text", **dict(_types(_schema()))}
    stated = yaml.safe_load(MEANINGS.read_text(encoding="utf-8"))
    return {name: Key(name, types[name], **entry) for name, entry in stated.items()}


def schema_keys() -> set[str]:
    """The dotted names that the schema defines, down to where keys.yaml describes a whole section."""
    return {"extends"} | {name for name, _ in _types(_schema())}  # taken out before the schema sees the profile


def find(name: str) -> list[Key]:
    """The key of that name, all keys below a section, or all that have the name inside theirs: "steps", "lr".

    Raises:
        UserError: no such key or section, with the nearest.
    """
    found = [key for key in keys().values() if key.name == name or key.name.startswith(name + ".")]
    found = found or [key for key in keys().values() if f".{name}." in f".{key.name}."]
    if not found:
        sections = {one.rsplit(".", depth)[0] for one in keys() for depth in range(one.count(".") + 1)}
        raise UserError("no such key of a profile", found=name, fix=nearest(name, sections))
    return found


def _schema() -> Mapping[str, Any]:
    return json.loads((SCHEMAS / "profile.schema.json").read_text(encoding="utf-8"))


WHOLE = {
    "mixture.weights",
    "train.loss.task_weights",
    "launcher.slurm",
    "launcher.stages",
    "inputs.jsonl",
    "inputs.stage4",
}
"""Sections that keys.yaml describes in one entry."""


def _types(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(dotted name, type in words) of every key."""

    def resolved(node: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in node:
            target: Any = schema
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
        return node

    def walk(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
        for name, below in node.get("properties", {}).items():
            below, dotted = resolved(below), f"{prefix}{name}"
            if "properties" in below and dotted not in WHOLE:
                yield from walk(below, f"{dotted}.")
            else:
                yield dotted, _in_words(below)

    yield from walk(schema, "")


def _in_words(node: Mapping[str, Any]) -> str:
    if "enum" in node:
        return "one of " + ", ".join(map(str, node["enum"]))
    kinds = node.get("type", "any")
    words = (
        " or ".join(kinds)
        if isinstance(kinds, list)
        else {"object": "section", "array": "list", "string": "text"}.get(kinds, kinds)
    )
    least, above, most = (node.get(limit) for limit in ("minimum", "exclusiveMinimum", "maximum"))
    if least is not None:
        return f"{words} from {least} " + ("up" if most is None else f"to {most}")
    return words + (f" above {above}" if above is not None else "") + (f", at most {most}" if most is not None else "")


def page() -> str:
    """KEYS.md: one table row for each key."""
    lines = [
        "# Keys of a profile",
        "",
        "Drawn by `python -m mmpt.profile.keys`; `doit help profile KEY` prints one of them with the stages",
    ]
    lines += ["that read it. A value in the packaged profiles is shown by `doit profile`.", ""]
    lines += ["| key | type | unit | default | meaning |", "|---|---|---|---|---|"]
    cells = ((f"`{key.name}`", key.type, key.unit, key.default, key.means) for key in keys().values())
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join([*lines, ""])


def origins(path: Path, data: Mapping[str, Any]) -> dict[str, str]:
    """Where each value of a resolved profile comes from: dotted key -> the name of the file that states it.

    Args:
        path: the profile's file.
        data: the resolved profile. A key that no file states (a default) is left out.
    """
    chain = list(_chain(path))
    leaves = dict(_leaves(data, ""))
    found = {}
    for name in leaves:
        for file, own in chain:
            if _stated(own, name):
                found[name] = file.name
                break
    return found


def left_behind(path: Path) -> dict[str, list[str]]:
    """File that a profile extends -> "GATE.check" of its `gates:`, not inherited and stated by no nearer file."""
    (_, own), *others = _chain(path)
    seen = {_addressed(one) for one in own.get("gates") or ()}
    found: dict[str, list[str]] = {}
    for file, data in others:
        new = [one for one in map(_addressed, data.get("gates") or ()) if one not in seen]
        seen.update(new)
        found |= {file.name: new} if new else {}
    return found


def _addressed(entry: Mapping[str, Any]) -> str:
    return f"{entry['gate']}.{entry['check']}"


def _chain(path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The file and what it extends, nearest first; the profile was loaded before, so all of them can be read."""
    while True:
        own = read_yaml(path)
        yield path, own
        if "extends" not in own:
            return
        path = extended(path, own["extends"])


def _leaves(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _stated(data: Any, dotted: str) -> bool:
    """Whether a file's own keys state the value: the key itself, or a scalar or list in its place."""
    for part in dotted.split("."):
        if not isinstance(data, Mapping):
            return data is not None
        if part not in data:
            return False
        data = data[part]
    return True


if __name__ == "__main__":
    atomic_write(PAGE, page().encode())
